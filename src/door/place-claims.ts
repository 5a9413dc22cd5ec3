import { LRUCache } from 'lru-cache';
import { Allowance } from '../base/allowance.js';

/** A client that found all places of its address taken. */
export interface PlaceClaim {
  readonly keyId: string;
  /** Its address, as `addressGroup` gives it. */
  readonly group: string;
}

/** The same claim is announced at most once in this time, in milliseconds; and so many claims a second in all. */
const AGAIN_MS = 3_000;
const CLAIMS_PER_SECOND = 10;
const MAX_CLAIMS = 1_000;

/**
 * Has all workers check whether the connections of a key from one address are still alive. Example: a phone changes its
 * network and reconnects. The server has not noticed yet that the old connection is dead, and it would keep its place until
 * the next ping.
 */
export class PlaceClaims {
  private readonly recent = new LRUCache<string, true>({ max: MAX_CLAIMS, ttl: AGAIN_MS });
  private readonly allowance = new Allowance({ rate: CLAIMS_PER_SECOND, burst: CLAIMS_PER_SECOND });

  /** @param tell all workers, this one too */
  constructor(private readonly tell: (claim: PlaceClaim) => void) {}

  make(claim: PlaceClaim): void {
    const name = `${claim.keyId} ${claim.group}`;
    if (!this.recent.has(name) && this.allowance.waitMs === 0) {
      this.recent.set(name, true);
      this.allowance.spend(1);
      this.tell(claim);
    }
  }
}
