import type { Cluster, Redis } from 'ioredis';
import { RateLimiterMemory } from 'rate-limiter-flexible';
import type { RateLimitResult } from '../broker.js';

const WINDOW_MS = 60_000;

/** Counts requests. @returns how many there were in this window, and its milliseconds that are left */
const CONSUME = `
local count = redis.call('INCRBY', KEYS[1], ARGV[2])
local left = redis.call('PTTL', KEYS[1])
if left < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
  left = tonumber(ARGV[1])
end
return { count, left }`;

type ScriptedRedis = Redis & {
  consumeRate(key: string, windowMs: number, requests: number): Promise<[count: number, left: number]>;
};

/** Counts requests of API keys on the server. While that fails, this process counts by itself. */
export class RedisRates {
  private readonly redis: ScriptedRedis;
  private readonly own = new RateLimiterMemory({ points: Number.MAX_SAFE_INTEGER, duration: WINDOW_MS / 1_000 });

  constructor(
    redis: Redis | Cluster,
    private readonly options: { readonly prefix: string; readonly onFailed: (error: unknown) => void },
  ) {
    redis.defineCommand('consumeRate', { numberOfKeys: 1, lua: CONSUME });
    this.redis = redis as unknown as ScriptedRedis;
  }

  async consume(key: string, limit: number, requests: number): Promise<RateLimitResult> {
    try {
      const [count, left] = await this.redis.consumeRate(`{${this.options.prefix}}:rate:${key}`, WINDOW_MS, requests);
      return result(count, limit, left);
    } catch (error) {
      this.options.onFailed(error);
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
