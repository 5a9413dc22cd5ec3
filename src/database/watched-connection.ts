import type { Socket } from 'node:net';
import { isReadOnly } from './database-errors.js';

export type Done = (error: Error | null, result: unknown) => void;

/** What knex uses of a connection, and its socket. */
export interface RawConnection {
  /** Of its session at the server. */
  readonly processID: number;
  query(config: unknown, done: Done): unknown;
  readonly connection: { readonly stream: Socket };
}

/**
 * Watches a connection of the pool.
 *
 * - When queries wait and no answer comes for `silentMs`, the connection is closed. Otherwise the pool would give it to one
 *   query after the other, and each would wait in vain. One timer serves all queries of a connection: the driver's own
 *   timers, one for each query, cost more than anything else in a write.
 *   `onSilence` is called: the session may go on without it.
 * - When a statement is refused because the server takes no writes, `onReadOnly` is called.
 *
 * @param silentMs how long an answer may take, in milliseconds
 */
export function watchConnection(
  connection: RawConnection,
  silentMs: number,
  onReadOnly: () => void,
  onSilence: () => void,
): void {
  const query = connection.query.bind(connection);
  let waiting = 0;
  let since = 0;
  let timer: NodeJS.Timeout | undefined;

  function watch(ms: number): void {
    // When this process was held up, the answer may be there already: it is read before the check.
    timer = setTimeout(() => setImmediate(look), ms).unref();
  }

  function look(): void {
    timer = undefined;
    const left = since + silentMs - performance.now();
    if (waiting > 0 && left > 0) {
      watch(left);
    } else if (waiting > 0) {
      const error = new Error('The database does not answer');
      onSilence();
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
