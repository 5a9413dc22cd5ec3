import { type Logger, silentLogger } from '../../base/logger.js';
import type { Broker } from '../broker.js';
import { commandClient, connectOnce, publishLater } from './redis-client.js';

/** The sending half of the Redis broker, for programs that write tasks and serve nobody. */
export interface RedisTransport extends Pick<Broker, 'publish'> {
  /** Waits for what is on its way, then closes the connection. */
  close(): Promise<void>;
}

/**
 * Connects a Publisher of another program with the workers' Redis. Resolves when the first attempt to connect has come to an
 * end, be it a failure: while Redis is away publishing fails, writes go on, and the workers find the events in the log.
 *
 * @param options `url` and `prefix`: the same as the workers' REDIS_URL and REDIS_PREFIX (`taskwire`)
 */
export async function connectTransport(options: {
  url: string;
  prefix?: string;
  logger?: Logger;
}): Promise<RedisTransport> {
  const { url, prefix = 'taskwire', logger = silentLogger } = options;
  const client = commandClient({ url, logger });
  const publish = publishLater(client);
  await connectOnce(client, logger);
  const underWay = new Set<Promise<unknown>>();
  return {
    async publish(channel, message) {
      const sent = publish(`${prefix}:${channel}`, message);
      underWay.add(sent);
      try {
        await sent;
      } finally {
        underWay.delete(sent);
      }
    },
    async close() {
      await Promise.allSettled(underWay);
      client.disconnect();
    },
  };
}
