import { randomUUID } from 'node:crypto';
import { type Redis, ReplyError } from 'ioredis';
import { RateLimiterMemory, RateLimiterRedis, type RateLimiterRes } from 'rate-limiter-flexible';
import type { Logger } from '../../base/logger.js';
import type { Broker, ChannelListener, RateLimitResult } from '../broker.js';
import { Availability, Channels } from '../channels.js';
import { commandClient, connectOnce, publishLater, redisClient } from './redis-client.js';
import { RedisLeases } from './redis-leases.js';
import { RedisSocketAdapter } from './redis-socket-adapter.js';

export interface RedisBrokerOptions {
  readonly url: string;
  /** Stands before every key and channel, so that deployments can share a server. */
  readonly prefix: string;
  readonly logger: Logger;
  /** How long a node that no longer renews its lease counts as alive, in milliseconds. */
  readonly leaseMs?: number;
  /** How often this node hears itself through the server, in milliseconds; three in a row missing: it is down. */
  readonly heartbeatMs?: number;
  /** How long a server that has refused something is not asked again, in milliseconds (1,000); it doubles each time. */
  readonly refusedMs?: number;
}

/** Channels of one SUBSCRIBE after a reconnect. */
const SUBSCRIBE_CHUNK = 1_000;
const WINDOW_SECONDS = 60;
/** A connection on which so many beats in a row are not heard is silent. */
const UNHEARD_BEATS = 3;
/** A server that goes on refusing is asked again so often, in milliseconds. */
const MAX_REFUSED_MS = 30_000;

/** The broker on Redis pub/sub: any number of hosts. */
export class RedisBroker implements Broker {
  readonly kind = 'redis';
  readonly nodeId = randomUUID();
  private readonly commands: Redis;
  private readonly publishing: (channel: string, message: Buffer) => Promise<unknown>;
  private readonly subscriber: Redis;
  private readonly socketAdapters: RedisSocketAdapter[] = [];
  private readonly channels: Channels;
  private readonly availability: Availability;
  private readonly leases: RedisLeases;
  private readonly limiter: RateLimiterRedis;
  private readonly heartbeatChannel: string;
  private readonly heartbeatMs: number;
  private heartbeat: NodeJS.Timeout | undefined;
  /** Beats in a row that were not heard. */
  private unheard = 0;
  /** All subscriptions are in place on the present connection. */
  private subscribed = false;
  /** Times in a row that the server has answered, and refused what this needs. */
  private refusals = 0;
  /** Until it is asked again. */
  private pardon: NodeJS.Timeout | undefined;
  private stopping: Promise<void> | undefined;

  constructor(private readonly options: RedisBrokerOptions) {
    const { prefix, logger } = options;
    this.channels = new Channels(logger);
    this.availability = new Availability(logger);
    this.heartbeatMs = options.heartbeatMs ?? 500;
    this.heartbeatChannel = `${prefix}:heartbeat:${this.nodeId}`;
    this.commands = commandClient(options);
    this.publishing = publishLater(this.commands);
    // Subscriptions are this class's to restore, so that it knows when they are.
    this.subscriber = redisClient(options, { autoResubscribe: false });
    this.leases = new RedisLeases(this.commands, {
      prefix,
      nodeId: this.nodeId,
      leaseMs: options.leaseMs ?? 15_000,
      logger,
    });
    this.limiter = new RateLimiterRedis({
      storeClient: this.commands,
      keyPrefix: `${prefix}:rate`,
      // Keys differ in their limits, so the counts are compared here.
      points: Number.MAX_SAFE_INTEGER,
      duration: WINDOW_SECONDS,
      insuranceLimiter: new RateLimiterMemory({ points: Number.MAX_SAFE_INTEGER, duration: WINDOW_SECONDS }),
    });
    this.subscriber.on('ready', () => void this.restore());
    this.subscriber.on('close', () => {
      this.subscribed = false;
      this.availability.set(false);
      // The next connection asks by itself.
      this.endPardon();
    });
    this.subscriber.on('messageBuffer', (channel: Buffer, message: Buffer) => {
      const name = channel.toString('latin1');
      if (name === this.heartbeatChannel) {
        this.unheard = 0;
      } else {
        this.channels.take(name, message);
      }
    });
    this.commands.on('ready', () => {
      void this.leases.announce();
      this.settle();
    });
  }

  get up(): boolean {
    return this.availability.up;
  }

  onUp(listener: () => void): void {
    this.availability.onUp(listener);
  }

  onDown(listener: () => void): void {
    this.availability.onDown(listener);
  }

  async publish(channel: string, message: Buffer): Promise<void> {
    await this.publishing(this.name(channel), message);
  }

  async subscribe(channel: string, listener: ChannelListener): Promise<void> {
    const name = this.name(channel);
    this.channels.set(name, listener);
    if (this.subscriber.status === 'ready') {
      // When this fails, all subscriptions are put in place again: by the reconnect, or when the server is asked anew.
      await this.subscriber.subscribe(name).catch((error: unknown) => this.failed(error));
    }
  }

  async unsubscribe(channel: string): Promise<void> {
    const name = this.name(channel);
    this.channels.delete(name);
    if (this.subscriber.status === 'ready') {
      await this.subscriber.unsubscribe(name).catch((error: unknown) => this.failed(error));
    }
  }

  socketAdapter(): unknown {
    const adapter = new RedisSocketAdapter(this.options);
    this.socketAdapters.push(adapter);
    return adapter.adapter;
  }

  async consume(key: string, limit: number): Promise<RateLimitResult> {
    const result: RateLimiterRes = await this.limiter.consume(key, 1);
    return {
      allowed: result.consumedPoints <= limit,
      limit,
      remaining: Math.max(0, limit - result.consumedPoints),
      resetMs: Math.max(0, result.msBeforeNext),
    };
  }

  acquireConnection(address: string, limit: number): Promise<(() => void) | undefined> {
    return this.leases.acquire(address, limit);
  }

  liveNodes(): Promise<string[]> {
    return this.leases.liveNodes();
  }

  async start(): Promise<void> {
    this.leases.start();
    this.heartbeat = setInterval(() => this.beat(), this.heartbeatMs);
    await Promise.all([this.connect(this.commands), this.connect(this.subscriber)]);
    if (this.subscriber.status === 'ready') {
      await this.restore();
    }
  }

  stop(): Promise<void> {
    this.stopping ??= this.end();
    return this.stopping;
  }

  private async end(): Promise<void> {
    clearInterval(this.heartbeat);
    this.endPardon();
    await this.leases.stop();
    this.commands.disconnect();
    this.subscriber.disconnect();
    for (const adapter of this.socketAdapters) {
      adapter.stop();
    }
  }

  private name(channel: string): string {
    return `${this.options.prefix}:${channel}`;
  }

  private connect(client: Redis): Promise<void> {
    return connectOnce(client, this.options.logger);
  }

  /** Puts all subscriptions in place on a new connection. */
  private async restore(): Promise<void> {
    if (this.subscribed) {
      return;
    }
    try {
      const names = [this.heartbeatChannel, ...this.channels.names];
      for (let start = 0; start < names.length; start += SUBSCRIBE_CHUNK) {
        await this.subscriber.subscribe(...names.slice(start, start + SUBSCRIBE_CHUNK));
      }
      if (this.refusals > 0) {
        await this.askToPublish();
        this.forgive();
      }
      this.subscribed = true;
      this.settle();
    } catch (error) {
      this.failed(error);
    }
  }

  /** Up is who hears everything and can be heard. */
  private settle(): void {
    if (this.subscribed && this.commands.status === 'ready' && !this.availability.up) {
      this.unheard = 0;
      this.availability.set(true);
    }
  }

  /** Hears itself: a connection that is open and silent looks well from everywhere else. */
  private beat(): void {
    this.askToPublish().catch((error: unknown) => this.failed(error));
    // Beats are counted, not time: a process that was held up has not heard its beats yet.
    this.unheard += 1;
    if (this.availability.up && this.unheard > UNHEARD_BEATS) {
      this.options.logger.warn('redis does not answer');
      this.suspect();
      // Commands on a silent connection would each wait for their time; without one they fail at once.
      this.commands.disconnect(true);
      for (const adapter of this.socketAdapters) {
        adapter.reconnect();
      }
    }
  }

  /** What this needs was not done: the connection is not to be trusted, or the server does not want to. */
  private failed(error: unknown): void {
    if (!(error instanceof ReplyError)) {
      this.suspect();
      return;
    }
    // Another connection would be refused as well.
    this.subscribed = false;
    this.availability.set(false);
    if (this.pardon === undefined && this.stopping === undefined) {
      const retryMs = Math.min(MAX_REFUSED_MS, (this.options.refusedMs ?? 1_000) * 2 ** this.refusals);
      this.refusals += 1;
      this.options.logger.warn('redis refuses what the broker needs; until it allows that the broker is down', {
        error: (error as Error).message,
        retryMs,
      });
      this.pardon = setTimeout(() => {
        this.pardon = undefined;
        if (this.subscriber.status === 'ready') {
          void this.restore();
        }
      }, retryMs);
    }
  }

  /** @throws the server's answer, when it does not allow this user to publish; other failures show by themselves */
  private async askToPublish(): Promise<void> {
    try {
      await this.commands.publish(this.heartbeatChannel, '');
    } catch (error) {
      if (error instanceof ReplyError && (error as Error).message.startsWith('NOPERM')) {
        throw error;
      }
    }
  }

  /** Everything is allowed that was not. */
  private forgive(): void {
    this.refusals = 0;
    this.options.logger.info('redis allows what the broker needs');
    // Their channels may have been refused too, and are asked for by a new connection only.
    for (const adapter of this.socketAdapters) {
      adapter.reconnect();
    }
  }

  private endPardon(): void {
    clearTimeout(this.pardon);
    this.pardon = undefined;
  }

  private suspect(): void {
    this.availability.set(false);
    if (this.stopping === undefined) {
      this.subscriber.disconnect(true);
    }
  }
}
