import { RateLimiterMemory } from 'rate-limiter-flexible';
import type { RateLimitResult } from '../broker.js';
import { type RedisCounts, WINDOW_MS } from './redis-counts.js';

/** Requests of API keys, counted on the server. While that fails, this process counts by itself. */
export class RedisRates {
  private readonly own = new RateLimiterMemory({ points: Number.MAX_SAFE_INTEGER, duration: WINDOW_MS / 1_000 });

  constructor(
    private readonly counts: Pick<RedisCounts, 'consume'>,
    private readonly onFailed: (key: string, error: unknown) => void,
  ) {}

  async consume(key: string, limit: number, requests: number): Promise<RateLimitResult> {
    try {
      const { count, left } = await this.counts.consume(key, requests);
      return result(count, limit, left);
    } catch (error) {
      this.onFailed(key, error);
      const { consumedPoints, msBeforeNext } = await this.own.consume(key, requests);
      return result(consumedPoints, limit, msBeforeNext);
    }
  }
}

const result = (count: number, limit: number, left: number): RateLimitResult => ({
  allowed: count <= limit,
  limit,
  remaining: Math.max(0, limit - count),
  resetMs: Math.max(0, left),
});
