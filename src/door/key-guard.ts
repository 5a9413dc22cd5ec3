import { hash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { LRUCache } from 'lru-cache';
import { errorEntry, toTaskwireError } from '../protocol/errors.js';
import type { Identity } from '../protocol/tasks.js';
import type { AddressBrake } from './address-brake.js';
import type { Authenticate } from './authenticator.js';
import { type Credentials, credentialIn } from './credentials.js';

/** Longest delay of the answer to a wrong key, in milliseconds. */
const MAX_DELAY_MS = 2_000;

/** How long a good key or token passes without being counted, in milliseconds, and how many are remembered. */
const GOOD_MS = 15 * 60_000;
const MAX_GOOD = 50_000;
/** How often the cache looks at the clock at most, in milliseconds: each look takes a timer. */
const CLOCK_MS = 1_000;
/** The name of credentials that cannot be a key or a token. */
const NOTHING = '';

/**
 * Bounds how many wrong keys and tokens an address may try. An unknown one counts until it turns out to be good. Answers to
 * wrong ones are delayed more and more, and at the bound nothing is looked up any more. One that was good here within the
 * last quarter of an hour passes, so that somebody who guesses does not lock out others behind the same address.
 */
export class KeyGuard {
  /** Keys that are being looked up for an address: a hundred requests with one key count as one attempt. */
  private readonly trying = new Set<string>();
  /** Hashes of those that were good. */
  private readonly good = new LRUCache<string, true>({ max: MAX_GOOD, ttl: GOOD_MS, ttlResolution: CLOCK_MS });

  constructor(
    private readonly keys: Authenticate,
    private readonly brake: AddressBrake,
  ) {}

  get revision(): number {
    return this.keys.revision;
  }

  /**
   * Checks the address of a request with credentials before these are looked up. Without credentials it does nothing.
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
        // The database or the issuer is away: the key may be good.
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

/** A name that tells one key or token from another; undefined without one. */
function nameOf(credentials: Credentials): string | undefined {
  try {
    const credential = credentialIn(credentials);
    if (credential === undefined) {
      return undefined;
    }
    return hash('sha256', 'key' in credential ? credential.key : credential.token, 'base64');
  } catch {
    return NOTHING;
  }
}
