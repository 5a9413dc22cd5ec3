import { Redis, type RedisOptions } from 'ioredis';
import type { Logger } from '../logger.js';

/** Longest wait for one command: a server that was stopped keeps its sockets open and says nothing. */
const COMMAND_MS = 2_000;
const CONNECT_MS = 2_000;
const RECONNECT_MAX_MS = 1_000;

const reconnectDelay = (attempt: number): number =>
  Math.min(RECONNECT_MAX_MS, 50 * 2 ** Math.min(attempt, 6)) * (0.75 + Math.random() * 0.25);

/** A connection that comes back by itself and lets nobody wait for long; not connected yet. */
export function redisClient(
  { url, logger }: { url: string; logger: Pick<Logger, 'debug'> },
  options: RedisOptions,
): Redis {
  const client = new Redis(url, {
    lazyConnect: true,
    connectTimeout: CONNECT_MS,
    commandTimeout: COMMAND_MS,
    keepAlive: 10_000,
    retryStrategy: reconnectDelay,
    ...options,
  });
  client.on('error', (error) => logger.debug('redis', { error: error.message }));
  return client;
}

/**
 * A connection for commands: they fail at once while there is no server, and those of one turn of the event loop are one
 * write. The client's own automatic pipelines would have them wait for the answers to the ones before.
 */
export function commandClient(options: { url: string; logger: Pick<Logger, 'debug'> }): Redis {
  const client = redisClient(options, {
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    // A command that timed out stays in the client's queue; a connection that is given up takes its queue along.
    commandTimeout: undefined,
    socketTimeout: COMMAND_MS,
  });
  const send = client.sendCommand.bind(client);
  let corked: Redis['stream'] | undefined;
  client.sendCommand = (command, stream) => {
    const socket = client.stream;
    if (socket !== undefined && socket !== corked) {
      corked = socket;
      socket.cork();
      setImmediate(() => {
        socket.uncork();
        corked = corked === socket ? undefined : corked;
      });
    }
    return send(command, stream);
  };
  return client;
}

/** Resolves when the first attempt has come to an end; later ones are the client's own. */
export async function connectOnce(client: Redis, logger: Pick<Logger, 'warn'>): Promise<void> {
  try {
    await client.connect();
  } catch (error) {
    logger.warn('redis is not reachable yet', { error: (error as Error).message });
  }
}
