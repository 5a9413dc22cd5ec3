import type { RateLimitResult, RateStore } from '../broker/broker.js';
import { TaskwireError } from '../protocol/errors.js';
import type { Identity } from '../protocol/tasks.js';

export type { RateLimitResult };

/** Requests and new connections of each API key per minute, counted over all workers. */
export class RateLimiter {
  constructor(private readonly store: RateStore) {}

  /** Counts one request, or several. The result says whether they are allowed. */
  count({ keyId, rateLimit }: Identity, requests = 1): Promise<RateLimitResult> {
    return this.store.consume(keyId, rateLimit, requests);
  }

  /**
   * Counts one request.
   * @throws TaskwireError RATE_LIMIT_EXCEEDED
   */
  async check(identity: Identity): Promise<RateLimitResult> {
    const result = await this.count(identity);
    assertAllowed(result);
    return result;
  }
}

/** @throws TaskwireError RATE_LIMIT_EXCEEDED, with the time until the window ends */
export function assertAllowed({ allowed, limit, remaining, resetMs }: RateLimitResult): void {
  if (!allowed) {
    throw new TaskwireError('RATE_LIMIT_EXCEEDED', {
      details: { limit, remaining, reset: resetSeconds(resetMs) },
      retryAfterMs: resetMs,
    });
  }
}

/** The headers that tell a caller where it stands; `X-RateLimit-Reset` in seconds since 1970. */
export function rateLimitHeaders({ limit, remaining, resetMs }: RateLimitResult): Record<string, string> {
  return {
    'X-RateLimit-Limit': String(limit),
    'X-RateLimit-Remaining': String(remaining),
    'X-RateLimit-Reset': String(resetSeconds(resetMs)),
  };
}

const resetSeconds = (resetMs: number): number => Math.ceil((Date.now() + resetMs) / 1_000);
