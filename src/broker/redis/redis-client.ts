import { Redis, ReplyError } from 'ioredis';
import type { ConnectionOptions } from './redis-settings.js';
import { guardReplies, wasSpoiled } from './reply-guard.js';

/**
 * A connection on which commands wait and no answer comes is given up after so many checks: a server that was stopped
 * (SIGSTOP) keeps its sockets open and sends nothing. Checks are counted, not time: a process that was held up itself has
 * not checked meanwhile, and reads the server's answers before it checks again.
 */
const SILENT_LOOKS = 4;
const LOOK_MS = 500;
const CONNECT_MS = 2_000;
/** Most commands of one connection that may wait for their answers; one more fails at once. */
export const MAX_WAITING = 20_000;
const RECONNECT_MAX_MS = 1_000;

export const reconnectDelay = (attempt: number): number =>
  Math.min(RECONNECT_MAX_MS, 50 * 2 ** Math.min(attempt, 6)) * (0.75 + Math.random() * 0.25);

/** Options of every connection. */
export const CONNECTION_OPTIONS = {
  lazyConnect: true,
  connectTimeout: CONNECT_MS,
  keepAlive: 10_000,
  // Commands fail at once while there is no server.
  enableOfflineQueue: false,
  maxRetriesPerRequest: 0,
  // A server that is loading its data, or a replica, answers commands with an error; publishing and subscribing work.
  enableReadyCheck: false,
  sentinelRetryStrategy: reconnectDelay,
  sentinelCommandTimeout: CONNECT_MS,
} satisfies ConnectionOptions;

/** Commands that were sent and have no answer yet. */
const waitingOf = (client: Redis): number =>
  (client as unknown as { readonly commandQueue: { readonly length: number } }).commandQueue.length;

/** A client that reconnects by itself, and whose commands fail soon; not connected yet. */
export function redisClient(target: ConnectionOptions, options: ConnectionOptions = {}): Redis {
  // A server that cannot be understood would be asked again at once: it has taken the connection.
  const retryStrategy = (attempt: number): number => (wasSpoiled(client) ? RECONNECT_MAX_MS : reconnectDelay(attempt));
  const client: Redis = new Redis({ ...CONNECTION_OPTIONS, retryStrategy, ...target, ...options });
  guardReplies(client);
  // Without a listener the client would print each error. Its users look at the end of the connection.
  client.on('error', () => {});
  if (target.sentinels !== undefined) {
    const { connector } = client as unknown as { connector: SentinelConnector };
    hearSentinels(client, connector);
    askAllSentinels(connector);
  }
  if (target.db !== undefined) {
    insistOnDatabase(client);
  }
  leaveWhenSilent(client);
  return client;
}

/** Makes a client give up a connection on which it may not use its database. By itself it would use the first one. */
function insistOnDatabase(client: Redis): void {
  const select = client.select.bind(client) as (database: number) => Promise<unknown>;
  Object.assign(client, {
    select: (database: number) =>
      select(database).catch((error: Error) => {
        // A server without HELLO refuses everything before the login; the client selects again after it.
        const early = client.options.password && error.message.startsWith('NOAUTH');
        if (early || !(error instanceof ReplyError)) {
          throw error;
        }
        client.stream.destroy(error);
        // Otherwise this connection would become ready.
        return new Promise(() => {});
      }),
  });
}

/** What the client has for Sentinels. */
interface SentinelConnector {
  readonly sentinelIterator: { readonly sentinels: unknown[]; cursor: number };
  connect(...args: unknown[]): Promise<unknown>;
  connectToSentinel(...args: unknown[]): Redis;
}

/** Makes a client emit why it could not reach a Sentinel (`sentinelCause`): by itself it says only that a connection was closed. */
function hearSentinels(client: Redis, connector: SentinelConnector): void {
  const connect = connector.connectToSentinel.bind(connector);
  connector.connectToSentinel = (...args) => {
    const sentinel = connect(...args);
    guardReplies(sentinel);
    sentinel.on('error', (error: unknown) => client.emit('sentinelCause', error));
    return sentinel;
  };
}

/**
 * Makes a client ask all Sentinels each time it connects, beginning behind the one that it asked last: that one may know a master
 * of before. By itself it would begin there too, but say at the end of the list that no Sentinel can be reached, having asked none.
 */
function askAllSentinels(connector: SentinelConnector): void {
  const connect = connector.connect.bind(connector);
  connector.connect = (...args) => {
    const { sentinelIterator: list } = connector;
    list.sentinels.push(...list.sentinels.splice(0, list.cursor));
    list.cursor = 0;
    return connect(...args);
  };
}

/**
 * Ends a connection, so that the client makes a new one. A connection that is being made is left alone: ended at that
 * moment, the client would give up for good.
 */
export function leave(client: Redis): void {
  if (client.status === 'ready' || client.status === 'connect') {
    client.disconnect(true);
  }
}

/** Ends a connection that has gone silent, with all commands that wait on it. */
export function leaveWhenSilent(client: Redis): void {
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
 * Makes the commands of one turn of the event loop one write, and bounds how many wait. The client's own automatic
 * pipelines would have them wait for the answers to the ones before.
 */
export function writeOnceATurn(client: Redis): void {
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
}
