import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { LRUCache } from 'lru-cache';
import { errorEntry, toTaskwireError } from '../protocol/errors.js';
import type { Identity } from '../protocol/tasks.js';
import type { AddressBrake } from './address-brake.js';
import type { Authenticate } from './authenticator.js';
import { type Credentials, credentialOf } from './credentials.js';

/** How long the answer to a failed key is held back when the address has no more attempts, in milliseconds. */
const MAX_DELAY_MS = 2_000;

/** Keys and tokens that were good here pass for so long, in milliseconds, and so many of them. */
const GOOD_MS = 15 * 60_000;
const MAX_GOOD = 50_000;
/** The name of what cannot be a key or a token. */
const NOTHING = '';

/**
 * Bounds the keys and tokens that an address may try. Each that this worker does not know counts until it has turned out to
 * be good. The answers to bad ones come ever later, and at the bound nothing is looked up any more. One that was good here
 * within the last quarter of an hour passes: neighbours behind one address are not locked out by one that guesses.
 */
export class KeyGuard {
  /** Keys that are being looked up for an address: a hundred requests with one key are one attempt. */
  private readonly trying = new Set<string>();
  /** Hashes of those that were good. */
  private readonly good = new LRUCache<string, true>({ max: MAX_GOOD, ttl: GOOD_MS });

  constructor(
    private readonly keys: Authenticate,
    private readonly brake: AddressBrake,
  ) {}

  get revision(): number {
    return this.keys.revision;
  }

  /**
   * Looks at credentials that are not the time yet to look up; without any there is nothing to say.
   * @throws TaskwireError RATE_LIMIT_EXCEEDED when the address has tried too many keys
   */
  check(credentials: Credentials, group: string): void {
    if (nameOf(credentials) !== undefined) {
      this.brake.check(group);
    }
  }

  /** Whether credentials were good here a short while ago. */
  knows(credentials: Credentials): boolean {
    const name = nameOf(credentials);
    return name !== undefined && this.good.has(name);
  }

  /**
   * @param group where the request comes from, as `addressGroup` gives it
   * @throws TaskwireError RATE_LIMIT_EXCEEDED when the address has tried too many keys, and those of `Authenticate`
   */
  async authenticate(credentials: Credentials, group: string): Promise<Identity> {
    const name = nameOf(credentials);
    const attempt = `${group} ${name}`;
    if (name === undefined || this.good.has(name) || this.trying.has(attempt)) {
      return this.keys.authenticate(credentials);
    }
    this.brake.count(group);
    if (name !== NOTHING) {
      this.trying.add(attempt);
    }
    try {
      const identity = await this.keys.authenticate(credentials);
      this.good.set(name, true);
      this.brake.uncount(group);
      return identity;
    } catch (error) {
      if (errorEntry(toTaskwireError(error).code).retry === 'later') {
        // It is not known whether the key is good.
        this.brake.uncount(group);
      } else {
        await sleep(MAX_DELAY_MS * this.brake.strain(group), undefined, { ref: false });
      }
      throw error;
    } finally {
      this.trying.delete(attempt);
    }
  }
}

/** What tells one key or token from another: undefined without one. */
function nameOf(credentials: Credentials): string | undefined {
  try {
    const credential = credentialOf(credentials);
    return createHash('sha256')
      .update('key' in credential ? credential.key : credential.token)
      .digest('base64');
  } catch (error) {
    return toTaskwireError(error).code === 'MISSING_API_KEY' ? undefined : NOTHING;
  }
}
