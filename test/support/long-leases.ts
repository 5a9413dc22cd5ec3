import { RedisLeases } from '../../src/broker/redis/redis-leases.js';

/** Loaded into an instance: its leases do not end while a test runs, so that whatever is free was given back. */
const LEASE_MS = 3_600_000;

const { start } = RedisLeases.prototype;
RedisLeases.prototype.start = function (this: RedisLeases) {
  (this as unknown as { options: { leaseMs: number } }).options.leaseMs = LEASE_MS;
  start.call(this);
};
