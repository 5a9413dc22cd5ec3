import type { Redis } from 'ioredis';
import DataHandler from 'ioredis/built/DataHandler.js';
import { garbled } from './redis-faults.js';

/** The part of a client that reads answers; there is one for each connection. */
interface ReplyHandler {
  readonly redis: Redis;
  dispatch(handle: () => void): void;
  shiftCommand(reply: unknown): unknown;
}

/** The clients of this project. Those of others in this process are left as they are. */
const guarded = new WeakSet<object>();
/** Clients whose last connection has ended like this. */
const spoiled = new WeakSet<object>();
/** Connections that are given up: what still comes on them is not read. */
const ended = new WeakSet<ReplyHandler>();

const handlers = DataHandler.default.prototype as unknown as ReplyHandler;
const { dispatch, shiftCommand } = handlers;

handlers.dispatch = function (handle) {
  if (!guarded.has(this.redis)) {
    dispatch.call(this, handle);
  } else if (!ended.has(this)) {
    try {
      handle();
    } catch {
      ended.add(this);
      giveUp(this.redis);
    }
  }
};

handlers.shiftCommand = function (reply) {
  if (
    guarded.has(this.redis) &&
    (this.redis as unknown as { commandQueue: { length: number } }).commandQueue.length === 0
  ) {
    // From here on each answer would be taken for that to another command.
    throw garbled();
  }
  return shiftCommand.call(this, reply);
};

/**
 * Makes an answer that is none of Redis, as a bad proxy may give it, end the connection. By itself the client throws then, from
 * a place where nobody can catch it, which would end the process.
 */
export function guardReplies(client: Redis): void {
  guarded.add(client);
}

/** Whether the last connection of a client was given up for that; asked for once. */
export const wasSpoiled = (client: Redis): boolean => spoiled.delete(client);

/** Ends a connection whose answers make no sense, with all commands that wait on it. The next one is made after a pause. */
export function giveUp(client: Redis): void {
  const error = garbled();
  const { stream } = client;
  spoiled.add(client);
  (client as unknown as { recoverFromFatalError(...args: unknown[]): void }).recoverFromFatalError(error, error, {
    offlineQueue: false,
  });
  // The client has only ended its own half.
  stream.destroy();
}
