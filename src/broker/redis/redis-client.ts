import { Redis, type RedisOptions } from 'ioredis';
import type { Logger } from '../../base/logger.js';

/**
 * A connection on which commands wait and nothing is heard is given up after so many looks: a server that was stopped keeps
 * its sockets open and says nothing. Looks are counted, not time: a process that was held up has not looked meanwhile, and
 * reads what the server has said before it looks again.
 */
const SILENT_LOOKS = 4;
const LOOK_MS = 500;
const CONNECT_MS = 2_000;
/** Commands of one connection that may wait for their answers; what is more fails at once. */
export const MAX_WAITING = 20_000;
const RECONNECT_MAX_MS = 1_000;

const reconnectDelay = (attempt: number): number =>
  Math.min(RECONNECT_MAX_MS, 50 * 2 ** Math.min(attempt, 6)) * (0.75 + Math.random() * 0.25);

/** Commands that were sent and have no answer yet. */
const waitingOf = (client: Redis): number =>
  (client as unknown as { readonly commandQueue: { readonly length: number } }).commandQueue.length;

/** A connection that comes back by itself and lets nobody wait for long; not connected yet. */
export function redisClient(
  { url, logger }: { url: string; logger: Pick<Logger, 'debug'> },
  options: RedisOptions = {},
): Redis {
  const client = new Redis(url, {
    lazyConnect: true,
    connectTimeout: CONNECT_MS,
    keepAlive: 10_000,
    retryStrategy: reconnectDelay,
    // Commands fail at once while there is no server.
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    ...options,
    // The driver's types want it said: an option that is absent may not stand for it.
    replyMapping: 'legacy',
  });
  client.on('error', (error) => logger.debug('redis', { error: error.message }));
  leaveWhenSilent(client);
  return client;
}

/** Gives a silent connection up as a whole: commands that only their callers gave up would stay in the client's queue. */
function leaveWhenSilent(client: Redis): void {
  const send = client.sendCommand.bind(client);
  let watched: Redis['stream'] | undefined;
  let heard = 0;
  let silent = 0;
  let next: NodeJS.Timeout | undefined;

  function watch(): void {
    watched = client.stream;
    heard = watched?.bytesRead ?? 0;
    silent = 0;
  }

  function look(): void {
    next = undefined;
    if (waitingOf(client) === 0) {
      return;
    }
    if (client.stream !== watched || client.stream?.bytesRead !== heard) {
      watch();
    } else {
      silent += 1;
    }
    if (silent >= SILENT_LOOKS) {
      client.stream.destroy(new Error('redis does not answer'));
    } else {
      next = setTimeout(look, LOOK_MS);
    }
  }

  client.sendCommand = (command, stream) => {
    if (next === undefined) {
      watch();
      next = setTimeout(look, LOOK_MS);
    }
    return send(command, stream);
  };
}

/**
 * A connection for commands: those of one turn of the event loop are one write. The client's own automatic pipelines would
 * have them wait for the answers to the ones before.
 */
export function commandClient(options: { url: string; logger: Pick<Logger, 'debug'> }): Redis {
  const client = redisClient(options);
  const send = client.sendCommand.bind(client);
  let corked: Redis['stream'] | undefined;
  client.sendCommand = (command, stream) => {
    // A pipeline is never sent when one of its commands is missing.
    if (stream === undefined && waitingOf(client) >= MAX_WAITING) {
      command.reject(new Error('too many commands wait for redis'));
      return command.promise;
    }
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

/**
 * Publishes by a `commandClient`, at the end of the turn: a writer goes on with its next write before this process does
 * what the last one is followed by.
 * @returns publishes one message; the promise is that of the command
 */
export function publishLater(client: Redis): (channel: string, message: Buffer) => Promise<unknown> {
  let waiting: Array<() => void> = [];
  const send = (): void => {
    const all = waiting;
    waiting = [];
    for (const publish of all) {
      publish();
    }
    // What else would be written in this turn is on its way with it.
    client.stream?.uncork();
  };
  return (channel, message) =>
    new Promise((resolve) => {
      if (waiting.push(() => resolve(client.publish(channel, message))) === 1) {
        setImmediate(send);
      }
    });
}

/** Resolves when the first attempt has come to an end; later ones are the client's own. */
export async function connectOnce(client: Redis, logger: Pick<Logger, 'warn'>): Promise<void> {
  try {
    await client.connect();
  } catch (error) {
    logger.warn('redis is not reachable yet', { error: (error as Error).message });
  }
}
