import type { Socket } from 'node:net';
import pg from 'pg';

/** Where a connection goes. */
export interface Place {
  readonly url: string;
  /** For the driver, when the URL's host is a name of several servers: makes a socket that goes to one of them. */
  readonly stream?: () => Socket;
}

/**
 * Asks a server one question, over a connection of its own.
 * @param name shown by the server's `pg_stat_activity`
 * @param ms how long connecting may take, and the answer, in milliseconds
 * @throws the driver's error
 */
export async function askServer<Row extends object>(
  { url, stream }: Place,
  name: string,
  ms: number,
  sql: string,
  bindings: () => unknown[] = () => [],
): Promise<Row[]> {
  const client = new pg.Client({
    connectionString: url,
    application_name: name,
    connectionTimeoutMillis: ms,
    query_timeout: ms,
    ...(stream === undefined ? {} : { stream }),
  });
  // The query fails when the connection breaks. Without a listener for errors the process would end.
  client.on('error', () => {});
  try {
    await client.connect();
    const { rows } = await client.query<Row>(sql, bindings());
    return rows;
  } finally {
    await client.end().catch(() => {});
  }
}
