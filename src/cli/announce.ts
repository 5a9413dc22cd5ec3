import { sendControl } from '../broker/control-bus.js';
import { connectTransport } from '../broker/redis/redis-transport.js';
import type { Config } from '../config.js';

/**
 * Tells the workers that a key is no longer valid, or has changed. Without REDIS_URL there is no way to them.
 * @throws when Redis does not take the message
 */
export async function announceKey(
  { REDIS_URL, REDIS_PREFIX }: Config,
  type: 'key-revoked' | 'key-changed',
  keyId: string,
): Promise<void> {
  if (REDIS_URL === undefined) {
    return;
  }
  const transport = await connectTransport({ url: REDIS_URL, prefix: REDIS_PREFIX });
  try {
    await sendControl(transport, type, { keyId });
  } finally {
    await transport.close();
  }
}
