import { setTimeout as sleep } from 'node:timers/promises';
import { errorEntry, toTaskwireError } from '../protocol/errors.js';
import type { Identity } from '../protocol/tasks.js';
import type { AddressBrake } from './address-brake.js';
import { type ApiKeyAuth, NO_KEY } from './api-key.js';
import type { Credentials } from './credentials.js';

/** How long the answer to a failed key is held back when the address has no more attempts, in milliseconds. */
const MAX_DELAY_MS = 2_000;

/**
 * Bounds the keys that an address may try. Each key that this worker does not know counts until it has turned out to be
 * good. The answers to bad ones come ever later, and at the bound nothing is looked up any more. A key that was good here
 * within the last quarter of an hour passes: neighbours behind one address are not locked out by one that guesses.
 */
export class KeyGuard {
  /** Keys that are being looked up for an address: a hundred requests with one key are one attempt. */
  private readonly trying = new Set<string>();

  constructor(
    private readonly keys: Pick<ApiKeyAuth, 'authenticate' | 'knows' | 'nameOf' | 'revision'>,
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
    if (this.keys.nameOf(credentials) !== undefined) {
      this.brake.check(group);
    }
  }

  /** Whether credentials are those of a key that was good here a short while ago. */
  knows(credentials: Credentials): boolean {
    return this.keys.knows(credentials);
  }

  /**
   * @param group where the request comes from, as `addressGroup` gives it
   * @throws TaskwireError RATE_LIMIT_EXCEEDED when the address has tried too many keys, and those of `ApiKeyAuth`
   */
  async authenticate(credentials: Credentials, group: string): Promise<Identity> {
    const name = this.keys.nameOf(credentials);
    const attempt = `${group} ${name}`;
    if (name === undefined || this.keys.knows(credentials) || this.trying.has(attempt)) {
      return this.keys.authenticate(credentials);
    }
    this.brake.count(group);
    if (name !== NO_KEY) {
      this.trying.add(attempt);
    }
    try {
      const identity = await this.keys.authenticate(credentials);
      this.brake.forgive(group);
      return identity;
    } catch (error) {
      if (errorEntry(toTaskwireError(error).code).retry === 'later') {
        // It is not known whether the key is good.
        this.brake.forgive(group);
      } else {
        await sleep(MAX_DELAY_MS * this.brake.strain(group), undefined, { ref: false });
      }
      throw error;
    } finally {
      this.trying.delete(attempt);
    }
  }
}
