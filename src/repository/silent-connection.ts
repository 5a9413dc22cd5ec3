import type { Socket } from 'node:net';

type Done = (error: Error | null, result: unknown) => void;

/** What knex uses of a connection, and its socket. */
interface RawConnection {
  query(config: unknown, done: Done): unknown;
  readonly connection: { readonly stream: Socket };
}

/**
 * Closes a connection on which queries wait and nothing is answered: the server behind it is gone, and the pool would hand
 * it to one query after the other. One timer serves all queries of a connection; the driver's own, one per query, are
 * most of what a write costs the garbage collector.
 * @param silentMs how long an answer may take, in milliseconds
 */
export function leaveWhenSilent(silentMs: number) {
  return (connection: RawConnection, ready: (error: null, connection: RawConnection) => void): void => {
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
        done(error, result);
      });
    };
    ready(null, connection);
  };
}
