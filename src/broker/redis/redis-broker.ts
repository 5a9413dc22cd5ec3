import type { Logger } from '../../base/logger.js';
import type { Broker, ChannelListener, RateLimitResult } from '../broker.js';
import { BrokerNode } from '../broker-node.js';
import type { Fault } from '../condition.js';
import { ClusterSubscriptions } from './cluster-subscriptions.js';
import { redisClient } from './redis-client.js';
import { RedisCommands } from './redis-commands.js';
import { RedisCounts } from './redis-counts.js';
import { helpsToReconnect } from './redis-faults.js';
import { RedisLeases } from './redis-leases.js';
import { RedisRates } from './redis-rates.js';
import { describeSettings, type RedisSettings, type Target, targetOf } from './redis-settings.js';
import { RedisSocketAdapter } from './redis-socket-adapter.js';
import { RedisSubscriber } from './redis-subscriber.js';
import { ShardedSocketAdapter } from './sharded-socket-adapter.js';

export interface RedisBrokerOptions extends RedisSettings {
  /** Stands before every key and channel, so that deployments can share a server. */
  readonly prefix: string;
  readonly logger: Logger;
  /** How long a node that no longer renews its lease counts as alive, in milliseconds. */
  readonly leaseMs?: number;
  /** Interval of heartbeats through the server, in milliseconds. When three in a row are missing, the connection is dead. */
  readonly heartbeatMs?: number;
  /** How long a server that has refused something is not asked again, in milliseconds (1,000); it doubles each time. */
  readonly refusedMs?: number;
}

/** What the channels of one server and those of a cluster have in common. */
type Subscriptions = Pick<RedisSubscriber, 'fault' | 'start' | 'add' | 'remove' | 'beat' | 'reconnect' | 'stop'>;

/** Longest pause between two attempts to find a better server, in milliseconds. */
const MAX_RECONNECT_MS = 30_000;

/** The broker on Redis pub/sub: any number of hosts. */
export class RedisBroker extends BrokerNode implements Broker {
  private readonly target: Target;
  private readonly commands: RedisCommands;
  private readonly subscriptions: Subscriptions;
  private readonly socketAdapters: RedisSocketAdapter[] = [];
  private readonly shardedAdapters: ShardedSocketAdapter[] = [];
  private readonly leases: RedisLeases;
  private readonly rates: RedisRates;
  private readonly heartbeatMs: number;
  private readonly refusedMs: number;
  private heartbeat: NodeJS.Timeout | undefined;
  /** Attempts in a row to find a server that takes writes. */
  private reconnects = 0;
  private reconnecting: NodeJS.Timeout | undefined;
  private stopping: Promise<void> | undefined;

  constructor(private readonly options: RedisBrokerOptions) {
    const { prefix, logger } = options;
    super(logger);
    this.heartbeatMs = options.heartbeatMs ?? 500;
    this.refusedMs = options.refusedMs ?? 1_000;
    this.target = targetOf(options);
    this.commands = new RedisCommands(this.target);
    this.subscriptions = this.subscribeTo(this.target);
    const counts = new RedisCounts(this.commands.client, { prefix, nodeId: this.nodeId });
    this.leases = new RedisLeases(this.commands.client, counts, {
      prefix,
      nodeId: this.nodeId,
      leaseMs: options.leaseMs ?? 15_000,
      onFailed: (error) => this.limitsFailed(error),
      onRenewed: () => this.limitsWork(),
    });
    this.rates = new RedisRates(counts, (key, error) => this.leases.rateFailed(key, error));
    this.commands.onChange(() => {
      if (this.commands.fault === undefined) {
        void this.leases.announce();
      } else {
        this.condition.lose('limits', this.commands.fault);
      }
      this.judgeEvents();
    });
  }

  async publish(channel: string, message: Buffer): Promise<void> {
    await this.commands.publish(this.name(channel), message);
  }

  async subscribe(channel: string, listener: ChannelListener): Promise<void> {
    const name = this.name(channel);
    this.channels.set(name, listener);
    await this.subscriptions.add(name);
  }

  async unsubscribe(channel: string): Promise<void> {
    const name = this.name(channel);
    this.channels.delete(name);
    await this.subscriptions.remove(name);
  }

  socketAdapter(): unknown {
    const { prefix, logger } = this.options;
    if (this.commands.cluster !== undefined) {
      const adapter = new ShardedSocketAdapter(this.commands, this.subscriptions, `${prefix}:socket.io`, logger);
      this.shardedAdapters.push(adapter);
      return adapter.adapter;
    }
    const adapter = new RedisSocketAdapter({ connection: this.target.options, prefix, logger });
    this.socketAdapters.push(adapter);
    return adapter.adapter;
  }

  consume(key: string, limit: number, requests = 1): Promise<RateLimitResult> {
    return this.rates.consume(key, limit, requests);
  }

  acquireConnection(address: string, limit: number): Promise<(() => void) | undefined> {
    return this.leases.acquire(address, limit);
  }

  liveNodes(): Promise<string[]> {
    return this.leases.liveNodes();
  }

  bury(nodeId: string): Promise<void> {
    return this.leases.bury(nodeId);
  }

  async start(): Promise<void> {
    this.leases.start();
    this.heartbeat = setInterval(() => this.subscriptions.beat(), this.heartbeatMs);
    const connected = this.commands.connect();
    // The nodes of a cluster are known only when the first connection stands.
    await (this.commands.cluster === undefined
      ? Promise.all([connected, this.subscriptions.start()])
      : connected.then(() => this.subscriptions.start()));
    await this.leases.announce();
    if (this.state.status === 'up') {
      this.options.logger.info('broker: connected', { redis: describeSettings(this.options) });
    }
  }

  stop(): Promise<void> {
    this.stopping ??= this.end();
    return this.stopping;
  }

  private async end(): Promise<void> {
    this.condition.end();
    clearInterval(this.heartbeat);
    clearTimeout(this.reconnecting);
    this.reconnecting = undefined;
    await this.leases.stop();
    this.commands.disconnect();
    this.subscriptions.stop();
    for (const adapter of this.socketAdapters) {
      adapter.stop();
    }
  }

  private name(channel: string): string {
    return `${this.options.prefix}:${channel}`;
  }

  private subscribeTo(target: Target): Subscriptions {
    const { prefix, logger } = this.options;
    const heartbeat = `${prefix}:heartbeat:${this.nodeId}`;
    const options = {
      refusedMs: this.refusedMs,
      publish: (channel: string) => this.commands.publishNow(channel, ''),
      explain: (error: unknown) => this.commands.explain(error),
      onMessage: (channel: string, message: Buffer) => this.take(channel, message),
      onChange: () => this.judgeEvents(),
      onSilent: () => this.reconnectAll(),
      logger,
    };
    if (target.kind === 'cluster') {
      return new ClusterSubscriptions(this.commands.cluster!, {
        ...options,
        node: target.options,
        heartbeatPrefix: heartbeat,
        refresh: () => this.commands.refresh(),
      });
    }
    // This project restores subscriptions itself, so that it knows when they are in place.
    const client = redisClient(target.options, { autoResubscribe: false });
    return new RedisSubscriber(client, heartbeat, { ...options, sharded: false });
  }

  private take(channel: string, message: Buffer): void {
    this.channels.take(channel, message);
    for (const adapter of this.shardedAdapters) {
      adapter.take(channel, message);
    }
  }

  /** The broker is up when this node receives all messages and can publish. */
  private judgeEvents(): void {
    if (this.stopping !== undefined) {
      return;
    }
    const fault = this.commands.fault ?? this.subscriptions.fault;
    if (fault !== undefined) {
      this.condition.lose('events', fault);
    } else if (!this.condition.up) {
      this.condition.regain('events');
      // Their subscriptions may have been refused too, and they ask again only when they are told.
      for (const adapter of this.socketAdapters) {
        adapter.restore();
      }
    }
  }

  private limitsFailed(error: unknown): void {
    if (this.stopping !== undefined) {
      return;
    }
    const fault = this.commands.explain(error);
    this.condition.lose('limits', fault);
    if (helpsToReconnect(fault)) {
      this.goElsewhere(fault);
    }
  }

  private limitsWork(): void {
    // The server takes writes again: its connections are as good as new ones, and to change over would interrupt events.
    this.reconnects = 0;
    clearTimeout(this.reconnecting);
    this.reconnecting = undefined;
    if (this.stopping === undefined && this.commands.fault === undefined) {
      this.condition.regain('limits');
    }
  }

  /**
   * Leaves a server that is not the master any more. The first time it reconnects at once. When the address leads to the
   * same server again, it keeps that connection and tries others beside it, after ever longer pauses; it changes over when
   * one of them takes writes.
   */
  private goElsewhere(fault: Fault): void {
    if (this.reconnecting !== undefined) {
      return;
    }
    const tries = this.reconnects;
    const delayMs = tries === 0 ? 0 : Math.min(MAX_RECONNECT_MS, this.refusedMs * 2 ** tries);
    this.reconnects += 1;
    this.options.logger.debug('redis: another connection is tried', { ...fault, delayMs });
    const attempt = setTimeout(async () => {
      const better = tries === 0 || (await this.takesWrites());
      // Otherwise it was given up meanwhile.
      if (this.reconnecting === attempt) {
        this.reconnecting = undefined;
        if (better) {
          this.subscriptions.reconnect();
          this.reconnectAll();
        }
      }
    }, delayMs);
    this.reconnecting = attempt;
  }

  /** Whether a new connection leads to a server that takes writes. */
  private async takesWrites(): Promise<boolean> {
    const client = redisClient(this.target.options);
    try {
      await client.connect();
      await client.set(`{${this.options.prefix}}:probe`, '', 'PX', 1_000);
      return true;
    } catch {
      return false;
    } finally {
      client.disconnect();
    }
  }

  /** Makes new connections. On a silent one each command would wait for its timeout; without one it fails at once. */
  private reconnectAll(): void {
    this.commands.reconnect();
    for (const adapter of this.socketAdapters) {
      adapter.reconnect();
    }
  }
}
