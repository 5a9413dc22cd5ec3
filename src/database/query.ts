import type { Knex } from 'knex';
import { TaskwireError } from '../protocol/errors.js';
import { advised } from './connect-advice.js';
import { isFull, prepares, renewConnections, watchOf } from './connect-database.js';
import { isDatabaseUnavailable, isLockTimeout, isMisfit, isReadOnly } from './database-errors.js';

/**
 * A transaction of another program's client, in which statements are to run.
 *
 * ```ts
 * const transaction: TransactionClient = { query: (sql, bindings) => client.query(sql, [...bindings]) }; // pg
 * ```
 */
export interface TransactionClient {
  /**
   * Runs one statement in the transaction.
   * @param sql with `$1`, `$2` and so on for the bindings
   * @returns its rows, as they are or in `rows`
   */
  query(sql: string, bindings: readonly unknown[]): Promise<readonly object[] | { readonly rows: readonly object[] }>;
}

/** Where statements run: a pool, a transaction of knex, or one of another client. */
export type Database = Knex | TransactionClient;

const isKnex = (db: Database): db is Knex => 'raw' in db;

/** Whether statements run in a transaction that somebody else commits. */
export const isTransaction = (db: Database): boolean => !isKnex(db) || db.isTransaction === true;

/** A statement as the driver takes it. */
interface Statement {
  /** Its name on each connection, when it is prepared. */
  readonly name?: string;
  /** With `$1`, `$2` and so on. */
  readonly text: string;
}

/** What this module uses of a client of knex: that of a pool, or that of a transaction. */
interface KnexClient {
  acquireConnection(): Promise<object>;
  releaseConnection(connection: object): Promise<void>;
  query(
    connection: object,
    statement: { readonly sql: string; readonly bindings: readonly unknown[]; readonly options: object },
  ): Promise<{ readonly response: { readonly rows: object[] } }>;
}

/**
 * Prepared statements by their text. Each connection keeps the plan of each, so that there is a limit: further texts run
 * unprepared.
 */
const prepared = new Map<string, Statement>();
const MAX_PREPARED = 64;
/** How soon a write that found its stream or its task locked may be tried again, in milliseconds. */
const BUSY_RETRY_MS = 1_000;

/**
 * Runs one statement. All queries of this folder go through this function or `preparedQuery`.
 * @param sql with `?` for each binding
 * @throws TaskwireError (the driver's error as `cause`) DATABASE_UNAVAILABLE when the database cannot serve now, STREAM_BUSY
 * when another transaction keeps a lock for too long
 */
export function query<Row>(db: Database, sql: string, bindings: readonly unknown[]): Promise<Row[]> {
  if (!isKnex(db)) {
    return runBy<Row>(db, sql, bindings);
  }
  return run<Row>(db, { text: numbered(sql) }, bindings);
}

/**
 * The same for a statement that runs often and whose text takes few forms: the database plans it once per connection,
 * which for a write takes longer than the write itself.
 */
export function preparedQuery<Row>(db: Database, sql: string, bindings: readonly unknown[]): Promise<Row[]> {
  if (!isKnex(db)) {
    return runBy<Row>(db, sql, bindings);
  }
  const statement = statementOf(sql);
  return run<Row>(db, prepares(db) ? statement : { text: statement.text }, bindings);
}

function statementOf(sql: string): Statement {
  const known = prepared.get(sql);
  if (known !== undefined) {
    return known;
  }
  const text = numbered(sql);
  if (prepared.size >= MAX_PREPARED) {
    return { text };
  }
  const statement = { name: `taskwire_${prepared.size + 1}`, text };
  prepared.set(sql, statement);
  return statement;
}

/** A statement with `$1`, `$2` and so on for its bindings. */
function numbered(sql: string): string {
  let place = 0;
  return sql.replace(/\?/g, () => {
    place += 1;
    return `$${place}`;
  });
}

/** Sends a statement as `db.raw` does, without its builder: that takes more time than the driver. */
async function send(db: Knex, { text, ...options }: Statement, bindings: readonly unknown[]): Promise<object[]> {
  const client = db.client as KnexClient;
  const connection = await client.acquireConnection();
  try {
    const { response } = await client.query(connection, { sql: text, bindings, options });
    return response.rows;
  } finally {
    void client.releaseConnection(connection);
  }
}

async function run<Row>(db: Knex, statement: Statement, bindings: readonly unknown[], retried = false): Promise<Row[]> {
  try {
    const rows = await send(db, statement, bindings);
    const watch = watchOf(db);
    if (watch?.troubled) {
      watch.worked();
    }
    return rows as Row[];
  } catch (thrown) {
    const error = advised(db, thrown);
    if (isReadOnly(error) && !retried && !db.isTransaction) {
      // The statement has changed nothing. The next connection goes to the server that takes writes, if there is one.
      return run(db, statement, bindings, true);
    }
    if (isMisfit(error)) {
      renewConnections(db);
    }
    watchOf(db)?.failed(error, isFull(db));
    if (isLockTimeout(error)) {
      throw new TaskwireError('STREAM_BUSY', { retryAfterMs: BUSY_RETRY_MS, cause: error });
    }
    throw isDatabaseUnavailable(error) ? new TaskwireError('DATABASE_UNAVAILABLE', { cause: error }) : error;
  }
}

/** Runs a statement in somebody else's transaction. Errors of its client are passed on as they are. */
async function runBy<Row>(client: TransactionClient, sql: string, bindings: readonly unknown[]): Promise<Row[]> {
  const result = await client.query(numbered(sql), bindings);
  return ('rows' in result ? result.rows : result) as Row[];
}
