import type { Cluster, Redis } from 'ioredis';
import { TurnBatch } from '../../base/turn-batch.js';
import { COUNT_MS, type RedisCounts } from './redis-counts.js';

/**
 * Renews the lease of a node, and checks with a test write whether the server would count: without free memory it refuses
 * (OOM).
 * @returns whether the server knew no lease of this node, and the reason of a refusal
 */
const RENEW = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local probe = redis.pcall('SET', KEYS[2], '', 'PX', ARGV[2])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local added = redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
return { added, probe.err or '' }`;

const LIVE = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')`;

/** All counts are written again after this time, before they expire. */
const ANNOUNCE_MS = COUNT_MS / 6;

/** Pause before a lease that could not be renewed is tried again, in milliseconds. */
const RETRY_MS = 1_000;

/** Most addresses that are remembered during an outage. */
const MAX_UNWRITTEN = 100_000;

type ScriptedRedis = Redis & {
  renewLease(nodesKey: string, probeKey: string, node: string, ms: number): Promise<[added: number, refusal: string]>;
  liveLeases(nodesKey: string): Promise<string[]>;
};

interface LeaseOptions {
  readonly prefix: string;
  readonly nodeId: string;
  readonly leaseMs: number;
  /** The server failed or refused. This node counts by itself meanwhile. */
  readonly onFailed: (error: unknown) => void;
  /** The server has taken the lease, and has refused nothing since the last time it was asked. */
  readonly onRenewed: () => void;
}

/**
 * Connection counts of addresses, and leases of nodes. Each node writes how many connections of an address it has, as an
 * absolute number: a write may be repeated, and after a lost one the next is right again. The counts of a dead node stop
 * counting when its lease ends. All keys share one hash tag, so that a script may use them together on a cluster.
 */
export class RedisLeases {
  /** Addresses that have given places back. */
  private readonly lowered = new TurnBatch<string>((addresses) => void this.write(new Set(addresses)));
  /** Addresses whose counts could not be written; at most `MAX_UNWRITTEN`. */
  private readonly unwritten = new Set<string>();
  private readonly redis: ScriptedRedis;
  private renewal: NodeJS.Timeout | undefined;
  /** When all counts were written, as far as is known. */
  private announcedAt = Number.NEGATIVE_INFINITY;
  /** Something was refused since the lease was renewed last. */
  private refused = false;
  private stopped = false;

  constructor(
    redis: Redis | Cluster,
    private readonly counts: RedisCounts,
    private readonly options: LeaseOptions,
  ) {
    // Scripts are called by their hash; their texts are sent once.
    redis.defineCommand('renewLease', { numberOfKeys: 2, lua: RENEW });
    redis.defineCommand('liveLeases', { numberOfKeys: 1, lua: LIVE });
    this.redis = redis as unknown as ScriptedRedis;
  }

  start(): void {
    this.schedule(this.options.leaseMs / 3);
  }

  /** A command was refused. The lease is renewed soon, which shows whether the server still refuses. */
  failed(error: unknown): void {
    if (!this.refused && !this.stopped) {
      this.refused = true;
      this.schedule(RETRY_MS);
    }
    this.options.onFailed(error);
  }

  async acquire(address: string, limit: number): Promise<(() => void) | undefined> {
    let taken: boolean;
    try {
      taken = await this.counts.occupy(address, limit);
    } catch (error) {
      // Without the server each node counts for itself.
      this.failed(error);
      taken = this.counts.held(address) <= limit;
    }
    if (!taken) {
      this.lower(address);
      return undefined;
    }
    let held = true;
    return () => {
      if (held) {
        held = false;
        this.lower(address);
      }
    };
  }

  async liveNodes(): Promise<string[]> {
    return this.redis.liveLeases(this.counts.nodesKey);
  }

  /** Ends the lease of a dead node; its counts stop counting with it. Never rejects. */
  async bury(nodeId: string): Promise<void> {
    await this.redis.zrem(this.counts.nodesKey, nodeId).catch((error: unknown) => this.failed(error));
  }

  /** Renews the lease and writes all own counts: after a reconnect the server may have lost them. */
  async announce(): Promise<void> {
    this.announcedAt = Number.NEGATIVE_INFINITY;
    await this.renew();
  }

  async stop(): Promise<void> {
    this.stopped = true;
    clearTimeout(this.renewal);
    const pipeline = this.redis.pipeline().zrem(this.counts.nodesKey, this.options.nodeId);
    for (const address of this.counts.addresses) {
      pipeline.hdel(this.counts.addressKey(address), this.options.nodeId);
    }
    await pipeline.exec().catch(() => {});
  }

  private schedule(ms: number): void {
    clearTimeout(this.renewal);
    this.renewal = setTimeout(() => void this.renew(), ms);
  }

  private async renew(): Promise<void> {
    const { nodeId, leaseMs } = this.options;
    const { refused } = this;
    this.refused = false;
    try {
      const [added, refusal] = await this.redis.renewLease(this.counts.nodesKey, this.probeKey, nodeId, leaseMs);
      if (refusal !== '') {
        throw new Error(refusal);
      }
      // The lease had ended, so other nodes have dropped this node's counts: they are written again.
      if (added === 1 || performance.now() - this.announcedAt > ANNOUNCE_MS) {
        await this.writeAll();
      }
    } catch (error) {
      this.failed(error);
      return;
    }
    if (!this.stopped) {
      this.schedule(this.refused || refused ? Math.min(RETRY_MS, leaseMs / 3) : leaseMs / 3);
      if (!this.refused) {
        this.options.onRenewed();
      }
    }
  }

  private async writeAll(): Promise<void> {
    this.announcedAt = performance.now();
    const addresses = new Set([...this.counts.addresses, ...this.unwritten]);
    this.unwritten.clear();
    await this.write(addresses);
  }

  private lower(address: string): void {
    this.counts.leave(address);
    this.lowered.add(address);
  }

  /** Writes the counts of some addresses. Never rejects. */
  private async write(addresses: ReadonlySet<string>): Promise<void> {
    if (this.stopped || addresses.size === 0) {
      return;
    }
    const pipeline = this.redis.pipeline();
    for (const address of addresses) {
      const count = this.counts.held(address);
      const key = this.counts.addressKey(address);
      if (count === 0) {
        pipeline.hdel(key, this.options.nodeId);
      } else {
        pipeline.hset(key, this.options.nodeId, count).pexpire(key, COUNT_MS);
      }
    }
    try {
      const results = (await pipeline.exec()) ?? [];
      const refusal = results.find(([error]) => error !== null)?.[0];
      if (refusal) {
        throw refusal;
      }
    } catch (error) {
      // They are written again with the next renewal, also those of addresses without connections by then.
      this.announcedAt = Number.NEGATIVE_INFINITY;
      for (const address of [...addresses].slice(0, MAX_UNWRITTEN - this.unwritten.size)) {
        this.unwritten.add(address);
      }
      this.failed(error);
    }
  }

  private get probeKey(): string {
    return `{${this.options.prefix}}:probe`;
  }
}
