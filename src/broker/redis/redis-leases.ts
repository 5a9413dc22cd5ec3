import type { Cluster, Redis } from 'ioredis';
import { TurnBatch } from '../../base/turn-batch.js';

/** Sums the places that live nodes hold of an address, forgets the dead ones, and takes one more if there is room. */
const ACQUIRE = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local total = tonumber(ARGV[2])
local held = redis.call('HGETALL', KEYS[1])
for i = 1, #held, 2 do
  if held[i] ~= ARGV[1] then
    local lease = redis.call('ZSCORE', KEYS[2], held[i])
    if lease and tonumber(lease) > now then
      total = total + tonumber(held[i + 1])
    else
      redis.call('HDEL', KEYS[1], held[i])
    end
  end
end
if total > tonumber(ARGV[3]) then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1`;

/**
 * Renews the lease of a node, and tries whether the server would count: one without memory refuses that (OOM), and would
 * refuse the lease as well if nothing had been written before it.
 * @returns whether the server knew no lease of the node, and why it would not count
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

/** Counts of an address outlive this only while they are announced again. */
const COUNT_MS = 3_600_000;
const ANNOUNCE_MS = COUNT_MS / 6;

/** A lease that was not renewed is tried again so soon, in milliseconds. */
const RETRY_MS = 1_000;

/** Addresses that are remembered through an outage. */
const MAX_UNWRITTEN = 100_000;

type ScriptedRedis = Redis & {
  acquireLease(
    addressKey: string,
    nodesKey: string,
    node: string,
    count: number,
    limit: number,
    ms: number,
  ): Promise<number>;
  renewLease(nodesKey: string, probeKey: string, node: string, ms: number): Promise<[added: number, refusal: string]>;
  liveLeases(nodesKey: string): Promise<string[]>;
};

interface LeaseOptions {
  readonly prefix: string;
  readonly nodeId: string;
  readonly leaseMs: number;
  /** The server did not do what was asked, and this node goes on alone. */
  readonly onFailed: (error: unknown) => void;
  /** The server has taken the lease, and has refused nothing since the last time it was asked. */
  readonly onRenewed: () => void;
}

/**
 * Places of addresses and leases of nodes. A node writes how many connections of an address it has itself, as an absolute
 * number, so that a write may be repeated or lost and the next one puts it right; what a dead node wrote stops counting
 * with its lease. All keys share one hash tag: a script may touch them on a cluster too.
 */
export class RedisLeases {
  private readonly counts = new Map<string, number>();
  /** Addresses that have given places back. */
  private readonly lowered = new TurnBatch<string>((addresses) => void this.write(new Set(addresses)));
  /** Addresses whose counts the server did not take, as far as they are remembered. */
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
    private readonly options: LeaseOptions,
  ) {
    // By their hash: the texts are sent once.
    redis.defineCommand('acquireLease', { numberOfKeys: 2, lua: ACQUIRE });
    redis.defineCommand('renewLease', { numberOfKeys: 2, lua: RENEW });
    redis.defineCommand('liveLeases', { numberOfKeys: 1, lua: LIVE });
    this.redis = redis as unknown as ScriptedRedis;
  }

  start(): void {
    this.schedule(this.options.leaseMs / 3);
  }

  /** The server has refused something of these or of the requests: whether it still does is found out soon. */
  failed(error: unknown): void {
    if (!this.refused && !this.stopped) {
      this.refused = true;
      this.schedule(RETRY_MS);
    }
    this.options.onFailed(error);
  }

  async acquire(address: string, limit: number): Promise<(() => void) | undefined> {
    const mine = (this.counts.get(address) ?? 0) + 1;
    this.counts.set(address, mine);
    let taken: boolean;
    try {
      const answer = await this.redis.acquireLease(
        this.addressKey(address),
        this.nodesKey,
        this.options.nodeId,
        mine,
        limit,
        COUNT_MS,
      );
      taken = answer === 1;
    } catch (error) {
      // Without the server each node counts for itself.
      this.failed(error);
      taken = mine <= limit;
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
    return this.redis.liveLeases(this.nodesKey);
  }

  /** Renews the lease and writes all own counts: after a reconnect the server may have lost them. */
  async announce(): Promise<void> {
    this.announcedAt = Number.NEGATIVE_INFINITY;
    await this.renew();
  }

  async stop(): Promise<void> {
    this.stopped = true;
    clearTimeout(this.renewal);
    const pipeline = this.redis.pipeline().zrem(this.nodesKey, this.options.nodeId);
    for (const address of this.counts.keys()) {
      pipeline.hdel(this.addressKey(address), this.options.nodeId);
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
      const [added, refusal] = await this.redis.renewLease(this.nodesKey, this.probeKey, nodeId, leaseMs);
      if (refusal !== '') {
        throw new Error(refusal);
      }
      // With the lease went the counts: others drop those of a node that has none.
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
    const addresses = new Set([...this.counts.keys(), ...this.unwritten]);
    this.unwritten.clear();
    await this.write(addresses);
  }

  private lower(address: string): void {
    const count = (this.counts.get(address) ?? 1) - 1;
    if (count <= 0) {
      this.counts.delete(address);
    } else {
      this.counts.set(address, count);
    }
    this.lowered.add(address);
  }

  /** Writes the counts of some addresses. Never rejects. */
  private async write(addresses: ReadonlySet<string>): Promise<void> {
    if (this.stopped || addresses.size === 0) {
      return;
    }
    const pipeline = this.redis.pipeline();
    for (const address of addresses) {
      const count = this.counts.get(address);
      const key = this.addressKey(address);
      if (count === undefined) {
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
      // Written again with the next lease, those that have no connection any more too.
      this.announcedAt = Number.NEGATIVE_INFINITY;
      for (const address of [...addresses].slice(0, MAX_UNWRITTEN - this.unwritten.size)) {
        this.unwritten.add(address);
      }
      this.failed(error);
    }
  }

  private addressKey(address: string): string {
    return `{${this.options.prefix}}:connections:${address}`;
  }

  private get probeKey(): string {
    return `{${this.options.prefix}}:probe`;
  }

  private get nodesKey(): string {
    return `{${this.options.prefix}}:nodes`;
  }
}
