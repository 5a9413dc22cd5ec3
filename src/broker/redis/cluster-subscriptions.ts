import { type Cluster, Command } from 'ioredis';
import { CONNECTING, type Fault } from '../condition.js';
import { redisClient } from './redis-client.js';
import type { ConnectionOptions } from './redis-settings.js';
import { RedisSubscriber, type SubscriberOptions } from './redis-subscriber.js';

export interface ClusterSubscriptionsOptions extends Omit<SubscriberOptions, 'sharded'> {
  /** Options of a connection to a node, without its address. */
  readonly node: ConnectionOptions;
  /** Prefix of the channels for heartbeats. */
  readonly heartbeatPrefix: string;
  /** Reads anew which node has which slots. */
  readonly refresh: () => void;
}

const SLOTS = 16_384;

/** The slot of a channel. */
const slotOf = (name: string): number => new Command('spublish', [name]).getSlot()!;

/**
 * Channels of a cluster (sharded pub/sub): a channel has a slot, as a key has, and only the master of that slot brings its
 * messages. So there is one connection to each master, and channels go with their slots when a slot moves or a replica takes
 * over.
 */
export class ClusterSubscriptions {
  /** Channels with their slots. */
  private readonly names = new Map<string, number>();
  private readonly shards = new Map<string, RedisSubscriber>();
  /** First attempts to connect. */
  private readonly starting = new Set<Promise<void>>();
  private stopped = false;

  constructor(
    private readonly cluster: Cluster,
    private readonly options: ClusterSubscriptionsOptions,
  ) {
    cluster.on('refresh', () => void this.assign());
  }

  /** Why messages may be missed; undefined when none are. */
  get fault(): Fault | undefined {
    if (this.shards.size === 0) {
      return CONNECTING;
    }
    return [...this.shards.values()].find(({ fault }) => fault !== undefined)?.fault;
  }

  /** Resolves when all channels are in place, as far as the nodes let that be. */
  async start(): Promise<void> {
    await this.assign();
    // Also those that an earlier assignment has begun.
    await Promise.all(this.starting);
  }

  async add(name: string): Promise<void> {
    const slot = slotOf(name);
    this.names.set(name, slot);
    await this.shards.get(this.masterOf(slot) ?? '')?.add(name);
  }

  async remove(name: string): Promise<void> {
    const slot = this.names.get(name);
    this.names.delete(name);
    if (slot !== undefined) {
      await this.shards.get(this.masterOf(slot) ?? '')?.remove(name);
    }
  }

  beat(): void {
    if (this.fault !== undefined) {
      this.options.refresh();
    }
    for (const shard of this.shards.values()) {
      shard.beat();
    }
  }

  reconnect(): void {
    for (const shard of this.shards.values()) {
      shard.reconnect();
    }
  }

  stop(): void {
    this.stopped = true;
    for (const shard of this.shards.values()) {
      shard.stop();
    }
  }

  private masterOf(slot: number): string | undefined {
    return (this.cluster.slots[slot] as string[] | undefined)?.[0];
  }

  /** Gives each master the channels of its slots. */
  private async assign(): Promise<void> {
    if (this.stopped) {
      return;
    }
    const wanted = new Map<string, Set<string>>();
    for (let slot = 0; slot < SLOTS; slot += 1) {
      const master = this.masterOf(slot);
      if (master !== undefined && !wanted.has(master)) {
        wanted.set(master, new Set());
      }
    }
    for (const [name, slot] of this.names) {
      wanted.get(this.masterOf(slot) ?? '')?.add(name);
    }
    for (const [master, shard] of this.shards) {
      if (!wanted.has(master)) {
        this.shards.delete(master);
        shard.stop();
      }
    }
    await Promise.all([...wanted].map(([master, names]) => this.give(master, names)));
    this.options.onChange();
  }

  private async give(master: string, names: Set<string>): Promise<void> {
    const shard = this.shards.get(master);
    const heartbeat = this.heartbeatOf(master, shard?.heartbeat);
    if (shard === undefined) {
      const colon = master.lastIndexOf(':');
      const address = { host: master.slice(0, colon), port: Number(master.slice(colon + 1)) };
      const client = redisClient({ ...this.options.node, ...address }, { autoResubscribe: false });
      const { onChange, refresh } = this.options;
      const made = new RedisSubscriber(client, heartbeat, {
        ...this.options,
        sharded: true,
        onChange: () => {
          if (made.fault !== undefined) {
            refresh();
          }
          onChange();
        },
      });
      this.shards.set(master, made);
      void made.assign(names, heartbeat);
      const starting = made.start();
      this.starting.add(starting);
      await starting;
      this.starting.delete(starting);
    } else if (shard.fault?.code === 'SLOTS_MOVED' || shard.fault?.code === 'MOVED' || !shard.hears(names, heartbeat)) {
      await shard.assign(names, heartbeat);
    }
  }

  /** A channel that a master has the slot of. */
  private heartbeatOf(master: string, present: string | undefined): string {
    if (present !== undefined && this.masterOf(slotOf(present)) === master) {
      return present;
    }
    for (let number = 0; ; number += 1) {
      const name = `${this.options.heartbeatPrefix}:${number}`;
      if (this.masterOf(slotOf(name)) === master) {
        return name;
      }
    }
  }
}
