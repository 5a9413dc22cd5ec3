import type { Socket } from 'node:net';
import { isReadOnly } from './database-errors.js';

export type Done = (error: Error | null, result: unknown) => void;

/** What knex uses of a connection, and its socket. */
export interface RawConnection {
  query(config: unknown, done: Done): unknown;
  readonly connection: { readonly stream: Socket };
}

/**
 * Watches a connection of the pool.
 *
 * - When queries wait and nothing is answered, it is closed: the server behind it is gone, and the pool would hand it to
 *   one query after the other. One timer serves all queries of a connection; the driver's own, one per query, are most of
 *   what a write costs the garbage collector.
 * - When a statement is refused because the server takes no writes, `onReadOnly` is called.
 *
 * @param silentMs how long an answer may take, in milliseconds
 */
export function watchConnection(connection: RawConnection, silentMs: number, onReadOnly: () => void): void {
  const query = connection.query.bind(connection);
  let waiting = 0;
  let since = 0;
  let timer: NodeJS.Timeout | undefined;

  function watch(ms: number): void {
    // What is on its way to a process that was held up is read before it is missed.
    timer = setTimeout(() => setImmediate(look), ms).unref();
  }

  function look(): void {
    timer = undefined;
    const left = since + silentMs - performance.now();
    if (waiting > 0 && left > 0) {
      watch(left);
    } else if (waiting > 0) {
      const error = new Error('The database does not answer');
      connection.connection.stream.destroy(Object.assign(error, { code: 'ETIMEDOUT' }));
    }
  }

  connection.query = (config: unknown, done: Done) => {
    waiting += 1;
    since = performance.now();
    if (timer === undefined) {
      watch(silentMs);
    }
    return query(config, (error, result) => {
      waiting -= 1;
      since = performance.now();
      if (error !== null && isReadOnly(error)) {
        onReadOnly();
      }
      done(error, result);
    });
  };
}
