import type { Knex } from 'knex';
import { TaskwireError } from '../protocol/errors.js';
import { isFull, noteServerGone, prepares, watchOf } from './connect-database.js';
import {
  explained,
  isAcquireTimeout,
  isDatabaseUnavailable,
  isLockTimeout,
  isReadOnly,
  isServerGone,
} from './database-errors.js';

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

/**
 * Names of prepared statements by their text. Each connection keeps the plan of each, so that there is a limit: further
 * texts run unprepared.
 */
const names = new Map<string, string>();
const MAX_NAMES = 64;
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
  return run(db, () => db.raw(sql, bindings as Knex.RawBinding[]));
}

/**
 * The same for a statement that runs often and whose text takes few forms: the database plans it once per connection,
 * which for a write takes longer than the write itself.
 */
export function preparedQuery<Row>(db: Database, sql: string, bindings: readonly unknown[]): Promise<Row[]> {
  if (!isKnex(db)) {
    return runBy<Row>(db, sql, bindings);
  }
  const name = prepares(db) ? nameOf(sql) : undefined;
  return run(db, () => {
    const statement = db.raw(sql, bindings as Knex.RawBinding[]);
    return name === undefined ? statement : statement.options({ name });
  });
}

function nameOf(sql: string): string | undefined {
  let name = names.get(sql);
  if (name === undefined && names.size < MAX_NAMES) {
    name = `taskwire_${names.size + 1}`;
    names.set(sql, name);
  }
  return name;
}

async function run<Row>(db: Knex, statement: () => Knex.Raw, retried = false): Promise<Row[]> {
  try {
    const result: { rows: Row[] } = await statement();
    const watch = watchOf(db);
    if (watch?.troubled) {
      watch.worked();
    }
    return result.rows;
  } catch (thrown) {
    const error = explained(thrown);
    if (isReadOnly(error) && !retried && !db.isTransaction) {
      // The statement has changed nothing. The next connection goes to the server that takes writes, if there is one.
      return run(db, statement, true);
    }
    const full = isFull(db);
    // Who waited for a connection in vain knows nothing of the server while all of them are in use.
    if (isServerGone(error) && !(full && isAcquireTimeout(error))) {
      noteServerGone(db);
    }
    watchOf(db)?.failed(error, full);
    if (isLockTimeout(error)) {
      throw new TaskwireError('STREAM_BUSY', { retryAfterMs: BUSY_RETRY_MS, cause: error });
    }
    throw isDatabaseUnavailable(error) ? new TaskwireError('DATABASE_UNAVAILABLE', { cause: error }) : error;
  }
}

/** Runs a statement in somebody else's transaction. Errors of its client are passed on as they are. */
async function runBy<Row>(client: TransactionClient, sql: string, bindings: readonly unknown[]): Promise<Row[]> {
  let place = 0;
  const numbered = sql.replace(/\?/g, () => {
    place += 1;
    return `$${place}`;
  });
  const result = await client.query(numbered, bindings);
  return ('rows' in result ? result.rows : result) as Row[];
}
