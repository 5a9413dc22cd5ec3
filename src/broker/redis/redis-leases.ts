import { type Cluster, type Redis, ReplyError } from 'ioredis';
import { TurnBatch } from '../../base/turn-batch.js';
import { COUNT_MS, type RedisCounts } from './redis-counts.js';
import { garbled, needsAnotherRight } from './redis-faults.js';

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

/** Most addresses, and most rates and dead nodes, that are remembered during an outage. */
const MAX_UNWRITTEN = 100_000;
const MAX_REFUSED = 1_000;

/** Neither a key nor an address: counted to see whether the server counts. */
const PROBE = 'probe';

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
  /** The server has taken the lease, and has done again whatever it had refused. */
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
  /** Keys whose requests the server has refused to count; at most `MAX_REFUSED`. */
  private readonly refusedRates = new Set<string>();
  /** Dead nodes whose leases the server has refused to end; at most `MAX_REFUSED`. */
  private readonly unburied = new Set<string>();
  private readonly redis: ScriptedRedis;
  private renewal: NodeJS.Timeout | undefined;
  /** When all counts were written, as far as is known. */
  private announcedAt = Number.NEGATIVE_INFINITY;
  /** Commands that have failed so far. */
  private failures = 0;
  /** Something was refused, and not all of it was done since. */
  private refused = false;
  /** Times in a row that the server was asked in vain, and that it takes an operator to change that. */
  private vain = 0;
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

  /** The server has refused to count requests of a key. */
  rateFailed(key: string, error: unknown): void {
    if (error instanceof ReplyError && this.refusedRates.size < MAX_REFUSED) {
      this.refusedRates.add(key);
    }
    this.failed(error);
  }

  /** A command has failed. The lease is renewed soon, which shows whether the server still refuses. */
  private failed(error: unknown): void {
    this.failures += 1;
    this.vain = needsAnotherRight(error) ? this.vain : 0;
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
      this.remember(address);
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
    const nodes = await this.redis.liveLeases(this.counts.nodesKey);
    if (!Array.isArray(nodes)) {
      throw garbled();
    }
    return nodes;
  }

  /** Ends the lease of a dead node; its counts stop counting with it. Never rejects. */
  async bury(nodeId: string): Promise<void> {
    try {
      await this.redis.zrem(this.counts.nodesKey, nodeId);
    } catch (error) {
      if (this.unburied.size < MAX_REFUSED) {
        this.unburied.add(nodeId);
      }
      this.failed(error);
    }
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
    const { failures } = this;
    try {
      const answer = await this.redis.renewLease(this.counts.nodesKey, this.probeKey, nodeId, leaseMs);
      if (!Array.isArray(answer)) {
        throw garbled();
      }
      const [added, refusal] = answer;
      if (refusal !== '') {
        throw new Error(refusal);
      }
      // The lease had ended, so other nodes have dropped this node's counts: they are written again.
      const all = added === 1 || performance.now() - this.announcedAt > ANNOUNCE_MS;
      await this.askAgain(all);
    } catch (error) {
      this.failed(error);
    }
    if (this.stopped) {
      return;
    }
    this.refused = failures !== this.failures;
    this.schedule(Math.min(leaseMs / 3, this.refused ? RETRY_MS * 2 ** this.vain : leaseMs));
    if (this.refused) {
      this.vain += 1;
    } else {
      this.vain = 0;
      this.options.onRenewed();
    }
  }

  /**
   * Does all that counting does, on keys of nobody, and what was refused before on its own keys: that the lease can be
   * renewed does not say that the rest can be done.
   *
   * @param all whether to write the counts of all addresses
   */
  private async askAgain(all: boolean): Promise<void> {
    const { counts, unburied } = this;
    const rates = [PROBE, ...this.refusedRates];
    const answers = await Promise.allSettled([
      ...rates.map((name) => counts.consume(name, 0)),
      counts.occupy(PROBE, Number.MAX_SAFE_INTEGER).finally(() => counts.leave(PROBE)),
    ]);
    for (const [index, name] of rates.entries()) {
      if (answers[index]!.status === 'fulfilled') {
        this.refusedRates.delete(name);
      }
    }
    const addresses = new Set([PROBE, ...this.unwritten, ...(all ? counts.addresses : [])]);
    this.unwritten.clear();
    this.announcedAt = all ? performance.now() : this.announcedAt;
    await this.write(addresses);
    if (unburied.size > 0) {
      const nodes = [...unburied];
      await this.redis.zrem(counts.nodesKey, ...nodes);
      for (const node of nodes) {
        unburied.delete(node);
      }
    }
    const refused = answers.find((answer) => answer.status === 'rejected');
    if (refused !== undefined) {
      throw refused.reason;
    }
  }

  private lower(address: string): void {
    this.counts.leave(address);
    this.lowered.add(address);
  }

  /** Writes the counts of some addresses. Those that are refused are written again with the next renewal. Never rejects. */
  private async write(addresses: ReadonlySet<string>): Promise<void> {
    if (this.stopped || addresses.size === 0) {
      return;
    }
    const pipeline = this.redis.pipeline();
    /** The address of each command. */
    const written: string[] = [];
    for (const address of addresses) {
      const count = this.counts.held(address);
      const key = this.counts.addressKey(address);
      if (count === 0) {
        pipeline.hdel(key, this.options.nodeId);
        written.push(address);
      } else {
        pipeline.hset(key, this.options.nodeId, count).pexpire(key, COUNT_MS);
        written.push(address, address);
      }
    }
    try {
      const results = (await pipeline.exec()) ?? [];
      const refusals = results.flatMap(([error], index) => (error === null ? [] : [{ error, index }]));
      for (const { index } of refusals) {
        this.remember(written[index]!);
      }
      if (refusals.length > 0) {
        this.failed(refusals[0]!.error);
      }
    } catch (error) {
      for (const address of addresses) {
        this.remember(address);
      }
      this.failed(error);
    }
  }

  /** The count of an address is to be written with the next renewal, also if it has no connections by then. */
  private remember(address: string): void {
    if (this.unwritten.size < MAX_UNWRITTEN) {
      this.unwritten.add(address);
    } else {
      this.announcedAt = Number.NEGATIVE_INFINITY;
    }
  }

  private get probeKey(): string {
    return `{${this.options.prefix}}:probe`;
  }
}
