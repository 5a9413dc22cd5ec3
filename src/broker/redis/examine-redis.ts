import type { Redis } from 'ioredis';
import { type Logger, silentLogger } from '../../base/logger.js';
import type { Fault } from '../condition.js';
import { RedisBroker } from './redis-broker.js';
import { RedisCommands } from './redis-commands.js';
import { type RedisSettings, targetOf } from './redis-settings.js';

/** What is known of a Redis, as far as the service depends on it. */
export interface RedisFacts {
  /** What does not work, and why; empty when everything does. */
  readonly faults: ReadonlyArray<Fault & { readonly lost: string }>;
  /** What the server says of itself; undefined where this user may not ask. */
  readonly version: string | undefined;
  /** `standalone`, `cluster` or `sentinel`. */
  readonly mode: string | undefined;
  readonly maxmemoryPolicy: string | undefined;
}

/** How long everything may take to work, in milliseconds. */
const PATIENCE_MS = 5_000;
const LOOK_MS = 50;

/** Does everything once that a worker does with Redis. Never rejects. */
export async function examineRedis(settings: RedisSettings, prefix: string): Promise<RedisFacts> {
  const faults = new Map<string, Fault & { lost: string }>();
  const logger: Logger = {
    ...silentLogger,
    warn: (message, fields) => {
      const fault = fields as unknown as Fault;
      faults.set(`${message} ${fault.code}`, { ...fault, lost: message.replace('broker: ', '') });
    },
  };
  const broker = new RedisBroker({ ...settings, prefix, logger, heartbeatMs: 100 });
  try {
    await broker.start();
    const channel = `check:${broker.nodeId}`;
    let heard = false;
    await broker.subscribe(channel, () => {
      heard = true;
    });
    await broker.consume('check', Number.MAX_SAFE_INTEGER);
    (await broker.acquireConnection('check', Number.MAX_SAFE_INTEGER))?.();
    for (const end = performance.now() + PATIENCE_MS; performance.now() < end; ) {
      await broker.publish(channel, Buffer.from('check')).catch(() => {});
      if ((heard && broker.state.status === 'up') || faults.size > 0) {
        break;
      }
      await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    }
    const lost = new Set(broker.state.lost);
    const told = [...faults.values()].filter((fault) => lost.has(fault.lost));
    return { faults: told, ...(await describeServer(settings)) };
  } finally {
    await broker.stop();
  }
}

async function describeServer(settings: RedisSettings): Promise<Omit<RedisFacts, 'faults'>> {
  const commands = new RedisCommands(targetOf(settings));
  try {
    await commands.connect();
    const text = String(await (commands.client as Redis).info());
    const field = (name: string): string | undefined => new RegExp(`^${name}:(.*?)\\r?$`, 'm').exec(text)?.[1];
    return { version: field('redis_version'), mode: field('redis_mode'), maxmemoryPolicy: field('maxmemory_policy') };
  } catch {
    return { version: undefined, mode: undefined, maxmemoryPolicy: undefined };
  } finally {
    commands.disconnect();
  }
}
