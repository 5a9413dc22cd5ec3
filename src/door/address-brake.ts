import { LRUCache } from 'lru-cache';
import { Allowance } from '../base/allowance.js';
import { TaskwireError } from '../protocol/errors.js';

/** Addresses that are remembered. Beyond that, the one that was not seen for longest is forgotten. */
const MAX_ADDRESSES = 10_000;
const SECONDS_PER_MINUTE = 60;

/** Allows each address so many attempts a minute, in this worker. All of a minute may come at once. */
export class AddressBrake {
  private readonly addresses = new LRUCache<string, Allowance>({ max: MAX_ADDRESSES });

  /**
   * @param message the text of the error for an address with too many attempts
   * @param now milliseconds since any fixed moment
   */
  constructor(
    private readonly perMinute: number,
    private readonly message: string,
    private readonly now: () => number = () => performance.now(),
  ) {}

  /**
   * Counts one attempt.
   * @param group an address, or a network of addresses that count as one
   * @throws TaskwireError RATE_LIMIT_EXCEEDED when there were too many; this one is not counted then
   */
  count(group: string): void {
    this.check(group);
    this.of(group).spend(1);
  }

  /** @throws TaskwireError RATE_LIMIT_EXCEEDED when there were too many; counts nothing */
  check(group: string): void {
    const { waitMs } = this.of(group);
    if (waitMs > 0) {
      throw new TaskwireError('RATE_LIMIT_EXCEEDED', { message: this.message, retryAfterMs: Math.ceil(waitMs) });
    }
  }

  /** Takes back an attempt that was counted. */
  uncount(group: string): void {
    this.of(group).spend(-1);
  }

  /** Which part of the allowance is used: from 0 to 1. */
  strain(group: string): number {
    return 1 - Math.max(0, this.of(group).left) / this.perMinute;
  }

  private of(group: string): Allowance {
    let allowance = this.addresses.get(group);
    if (allowance === undefined) {
      const { perMinute, now } = this;
      allowance = new Allowance({ rate: perMinute / SECONDS_PER_MINUTE, burst: perMinute, now });
      this.addresses.set(group, allowance);
    }
    return allowance;
  }
}
