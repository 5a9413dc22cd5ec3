import { createShardedAdapter } from '@socket.io/redis-adapter';
import type { Redis } from 'ioredis';
import type { Logger } from '../../base/logger.js';
import type { RedisCommands } from './redis-commands.js';
import type { RedisSubscriber } from './redis-subscriber.js';
import { forgiving } from './socket-messages.js';

type MessageListener = (...message: Buffer[]) => unknown;

/**
 * The Socket.IO adapter of a cluster, on the broker's own connections: its channels move with their slots as the broker's
 * do. The adapter ignores the promises of its commands, and an unhandled rejection would end the process. So the clients
 * that it gets here never reject.
 */
export class ShardedSocketAdapter {
  /** As `io.adapter()` takes it. */
  readonly adapter: unknown;
  private readonly listeners: MessageListener[] = [];

  constructor(
    commands: Pick<RedisCommands, 'publishNow' | 'cluster'>,
    subscriptions: Pick<RedisSubscriber, 'add' | 'remove'>,
    private readonly channelPrefix: string,
    logger: Pick<Logger, 'warn'>,
  ) {
    const publisher = {
      isCluster: true,
      spublish: (channel: string, message: string | Buffer) => commands.publishNow(channel, message).catch(() => 0),
      /** For PUBSUB SHARDNUMSUB, which counts the servers that listen. */
      nodes: () =>
        commands.cluster!.nodes('master').map((node: Redis) => ({
          send_command: (name: string, args: string[]) => node.call(name, ...args).catch(() => [args[1], 0]),
        })),
    };
    const subscriber = {
      on: (_event: 'smessageBuffer', listener: MessageListener) => this.listeners.push(forgiving(listener, logger)),
      ssubscribe: (channel: string) => subscriptions.add(channel),
      sunsubscribe: (channels: string | string[]) =>
        Promise.all([channels].flat().map((channel) => subscriptions.remove(channel))),
    };
    // Rooms are the hub's: one channel for all of them is enough.
    this.adapter = createShardedAdapter(publisher, subscriber, { channelPrefix, subscriptionMode: 'static' });
  }

  take(channel: string, message: Buffer): void {
    if (channel.startsWith(`${this.channelPrefix}#`)) {
      for (const listener of this.listeners) {
        listener(Buffer.from(channel, 'latin1'), message);
      }
    }
  }
}
