import { type Logger, silentLogger } from '../../base/logger.js';
import type { Publishing } from '../broker.js';
import { CONNECTING } from '../condition.js';
import { RedisCommands } from './redis-commands.js';
import { type RedisSettings, targetOf } from './redis-settings.js';

/** The sending half of the Redis broker, for programs that write tasks and serve nobody. */
export interface RedisTransport extends Publishing {
  /** Waits for what is on its way, then closes the connection. */
  close(): Promise<void>;
}

/**
 * Connects a Publisher of another program with the workers' Redis. Resolves when the first attempt to connect has come to an
 * end, be it a failure: while Redis is away publishing fails, writes go on, and the workers find the events in the log.
 *
 * @param options where Redis is (`url`, `sentinels` or `cluster`) and `prefix`, the same as the workers' REDIS_PREFIX
 *   (`taskwire`); `logger` is told once in an outage why there is no connection
 */
export async function connectTransport(
  options: RedisSettings & { readonly prefix?: string; readonly logger?: Logger },
): Promise<RedisTransport> {
  const { prefix = 'taskwire', logger = silentLogger } = options;
  const commands = new RedisCommands(targetOf(options));
  const told = new Set<string>();
  commands.onChange(() => {
    const { fault } = commands;
    if (fault === undefined) {
      told.clear();
    } else if (fault !== CONNECTING && !told.has(fault.code)) {
      told.add(fault.code);
      logger.warn('events are not published; workers will find them in the log', { ...fault });
    }
  });
  await commands.connect();
  const underWay = new Set<Promise<unknown>>();
  return {
    async publish(channel, message) {
      const sent = commands.publish(`${prefix}:${channel}`, message);
      underWay.add(sent);
      try {
        await sent;
      } finally {
        underWay.delete(sent);
      }
    },
    async close() {
      await Promise.allSettled(underWay);
      told.clear();
      commands.disconnect();
    },
  };
}
