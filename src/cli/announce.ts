import { sendControl } from '../broker/control-bus.js';
import { redisSettings } from '../broker/redis/redis-settings.js';
import { connectTransport } from '../broker/redis/redis-transport.js';
import type { Config } from '../config.js';

/**
 * Tells the workers that a key is no longer valid, or has changed. Without Redis they cannot be reached.
 * @throws when Redis does not take the message
 */
export async function announceKey(config: Config, type: 'key-revoked' | 'key-changed', keyId: string): Promise<void> {
  const redis = redisSettings(config);
  if (redis === undefined) {
    return;
  }
  const transport = await connectTransport({ ...redis, prefix: config.REDIS_PREFIX });
  try {
    await sendControl(transport, type, { keyId });
  } finally {
    await transport.close();
  }
}
