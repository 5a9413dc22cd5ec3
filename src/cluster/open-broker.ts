import type { Logger } from '../base/logger.js';
import type { Broker } from '../broker/broker.js';
import { redisSettings } from '../broker/redis/redis-settings.js';
import type { Config } from '../config.js';

/**
 * Makes the broker of a process. Only its kind is loaded: the other one would be a part of the time of each start.
 * @param local makes the one that is used without Redis
 */
export async function openBroker(config: Config, logger: Logger, local: () => Promise<Broker>): Promise<Broker> {
  const redis = redisSettings(config);
  if (redis === undefined) {
    return local();
  }
  const { RedisBroker } = await import('../broker/redis/redis-broker.js');
  return new RedisBroker({ ...redis, prefix: config.REDIS_PREFIX, logger });
}
