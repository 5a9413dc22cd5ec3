import { createAdapter } from '@socket.io/redis-adapter';
import { type Redis, ReplyError } from 'ioredis';
import type { Logger } from '../../base/logger.js';
import { leave, redisClient } from './redis-client.js';
import { faultOf } from './redis-faults.js';
import type { ConnectionOptions } from './redis-settings.js';
import { forgiving } from './socket-messages.js';

interface SocketAdapterOptions {
  /** Of the server. */
  readonly connection: ConnectionOptions;
  readonly prefix: string;
  readonly logger: Logger;
}

type Listener = (...args: Buffer[]) => unknown;
type Kind = 'subscribe' | 'psubscribe';

/**
 * The Socket.IO adapter, on two connections of its own. The adapter ignores the promises of its commands, and an unhandled
 * rejection would end the process. So the clients that it gets here never reject.
 */
export class RedisSocketAdapter {
  /** As `io.adapter()` takes it. */
  readonly adapter: unknown;
  private readonly publisher: Redis;
  private readonly subscriber: Redis;
  private readonly send: Record<Kind, (...names: string[]) => Promise<unknown>>;
  private readonly names: Record<Kind, Set<string>> = { subscribe: new Set(), psubscribe: new Set() };
  /** Whether the server has refused a subscription. */
  private refused = false;
  private stopped = false;

  constructor(private readonly options: SocketAdapterOptions) {
    this.publisher = redisClient(options.connection);
    const publish = this.publisher.publish.bind(this.publisher) as (
      channel: string,
      message: string | Buffer,
    ) => Promise<number>;
    Object.assign(this.publisher, {
      publish: (channel: string, message: string | Buffer) => publish(channel, message).catch(() => 0),
    });

    // The client's own offline queue and its restoring of subscriptions would reject too, so they are off.
    this.subscriber = redisClient(options.connection, { autoResubscribe: false });
    this.send = {
      subscribe: this.subscriber.subscribe.bind(this.subscriber),
      psubscribe: this.subscriber.psubscribe.bind(this.subscriber),
    };
    const on = this.subscriber.on.bind(this.subscriber) as (event: string, listener: Listener) => Redis;
    Object.assign(this.subscriber, {
      on: (event: string, listener: Listener) =>
        on(event, /messageBuffer$/.test(event) ? forgiving(listener, options.logger) : listener),
      subscribe: (names: string | string[]) => this.add('subscribe', [names].flat()),
      psubscribe: (names: string | string[]) => this.add('psubscribe', [names].flat()),
    });
    this.subscriber.on('ready', () => {
      void this.put('subscribe', [...this.names.subscribe]);
      void this.put('psubscribe', [...this.names.psubscribe]);
    });

    this.adapter = createAdapter(this.publisher, this.subscriber, {
      key: `${options.prefix}:socket.io`,
      publishOnSpecificResponseChannel: true,
    });
    // The clients go on trying by themselves. The broker's own connections tell the reason of a failure.
    this.publisher.connect().catch(() => {});
    this.subscriber.connect().catch(() => {});
  }

  /** Leaves connections on which the server does not answer. */
  reconnect(): void {
    if (!this.stopped) {
      leave(this.publisher);
      leave(this.subscriber);
    }
  }

  /** Subscribes again to what the server has refused. */
  restore(): void {
    if (this.refused && !this.stopped) {
      this.refused = false;
      leave(this.subscriber);
    }
  }

  stop(): void {
    this.stopped = true;
    this.publisher.disconnect();
    this.subscriber.disconnect();
  }

  private async add(kind: Kind, names: readonly string[]): Promise<void> {
    for (const name of names) {
      this.names[kind].add(name);
    }
    if (this.subscriber.status === 'ready') {
      await this.put(kind, names);
    }
  }

  private async put(kind: Kind, names: readonly string[]): Promise<void> {
    if (names.length > 0) {
      try {
        await this.send[kind](...names);
      } catch (error) {
        if (error instanceof ReplyError) {
          if (!this.refused) {
            this.refused = true;
            // The service itself sends nothing through them.
            const lost = 'what other Socket.IO servers send to all clients';
            this.options.logger.warn('redis refuses channels of Socket.IO', { lost, ...faultOf(error) });
          }
        } else {
          // The connection fails too, and the next one subscribes to everything.
          this.reconnect();
        }
      }
    }
  }
}
