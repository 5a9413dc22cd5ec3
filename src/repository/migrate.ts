import { setTimeout as sleep } from 'node:timers/promises';
import type { Knex } from 'knex';
import { TaskwireError } from '../protocol/errors.js';
import { CAPTURE_TRIGGERS } from './capture-schema.js';
import { explained, isDatabaseUnavailable, isLockTimeout } from './database-errors.js';
import { migrationSource } from './migrations.js';

/** Key of the advisory lock: the letters `taskwire` as a 64-bit number. */
const LOCK_KEY = '8386110886542668389';
const RETRY_MS = 100;
/** Table in which knex keeps which steps were applied, and its name in earlier versions. */
const BOOKS = 'taskwire_migrations';
const OLD_BOOKS = 'schema_migrations';
const PATIENCE_MS = 60_000;
/** The tables that steps change. Statements that write meet `tasks` first. */
const TABLES = [
  'tasks',
  'jobs',
  'users',
  'event_streams',
  'task_events',
  'task_changes',
  'api_keys',
  'leases',
  'event_tables',
  'write_keys',
] as const;

export interface MigrateOptions {
  /**
   * Whether changes that other programs make to tasks become events (`on`). Without it, each call leaves that as it is,
   * and a new schema has it on.
   */
  readonly capture?: 'on' | 'off';
}

/**
 * Brings the schema up to date. Any number of processes may call it at once: one works, the others wait for it.
 *
 * All steps and knex's own bookkeeping are one transaction under an advisory lock of that transaction, so a process that
 * dies half-way leaves nothing behind, no lock either. It may run while others write: where they hold a table for longer than
 * a moment, it gives up and begins again, for up to a minute.
 *
 * @returns names of the steps that were applied, none when the schema was up to date
 * @throws TaskwireError DATABASE_UNAVAILABLE
 */
export async function migrate(db: Knex, options: MigrateOptions = {}): Promise<string[]> {
  const end = performance.now() + PATIENCE_MS;
  try {
    for (;;) {
      const late = performance.now() > end;
      try {
        const applied = await db.transaction((transaction) => attempt(transaction, options));
        if (applied !== undefined) {
          return applied;
        }
        if (late) {
          throw new TaskwireError('DATABASE_UNAVAILABLE', { message: 'Another process is migrating the database' });
        }
      } catch (error) {
        if (late || !isLockTimeout(error)) {
          throw error;
        }
      }
      await sleep(RETRY_MS);
    }
  } catch (thrown) {
    const error = explained(thrown);
    throw isDatabaseUnavailable(error) ? new TaskwireError('DATABASE_UNAVAILABLE', { cause: error }) : error;
  }
}

/** @returns undefined when another process has the lock. The caller tries again: a statement that waits would time out. */
async function attempt(transaction: Knex.Transaction, { capture }: MigrateOptions): Promise<string[] | undefined> {
  const lock: { rows: Array<{ mine: boolean }> } = await transaction.raw(
    'SELECT pg_try_advisory_xact_lock(?::bigint) AS mine',
    [LOCK_KEY],
  );
  if (lock.rows[0]?.mine !== true) {
    return undefined;
  }
  const wait = await lockWait(transaction);
  await limitWait(transaction, wait / 2);
  await adoptBooks(transaction);
  const books = { migrationSource, tableName: BOOKS };
  const [, pending]: [unknown[], unknown[]] = await transaction.migrate.list(books);
  let names: string[] = [];
  if (pending.length > 0) {
    await lockTables(transaction, wait);
    [, names] = await transaction.migrate.latest({ ...books, disableTransactions: true });
  }
  if (capture !== undefined) {
    await setCapture(transaction, capture === 'on');
  }
  return names;
}

/** After so many milliseconds somebody who waits for a lock looks whether others wait for him, and ends his own transaction. */
async function lockWait(transaction: Knex.Transaction): Promise<number> {
  const { rows }: { rows: Array<{ ms: number }> } = await transaction.raw(
    `SELECT setting::int AS ms FROM pg_settings WHERE name = 'deadlock_timeout'`,
  );
  return rows[0]?.ms ?? 1_000;
}

async function limitWait(transaction: Knex.Transaction, ms: number): Promise<void> {
  await transaction.raw(`SET LOCAL lock_timeout = ${Math.max(1, Math.floor(ms))}`);
}

/**
 * Takes all tables before any of them is changed. It may wait for the first one, as nobody waits for it yet; whoever writes
 * queues behind it and has no other table. A transaction that has touched others before may hold one of them and wait for
 * the first. So the rest is waited for only so long that all of it is over before anybody who waits looks for a deadlock:
 * then it is this transaction that gives up, and no other one.
 */
async function lockTables(transaction: Knex.Transaction, wait: number): Promise<void> {
  const { rows }: { rows: Array<{ name: string }> } = await transaction.raw(
    'SELECT name FROM unnest(?::text[]) WITH ORDINALITY AS t (name, place) WHERE to_regclass(name) IS NOT NULL ORDER BY place',
    [[...TABLES]],
  );
  for (const [place, { name }] of rows.entries()) {
    await limitWait(transaction, place === 0 ? wait / 2 : wait / 4 / TABLES.length);
    await transaction.raw(`LOCK TABLE ${name} IN ACCESS EXCLUSIVE MODE`);
  }
}

/**
 * Takes over the table in which earlier versions kept what was applied. Its name belongs to other tools too (Rails has a
 * table of that name), so it is taken only when it has our columns and our first step.
 */
async function adoptBooks(transaction: Knex.Transaction): Promise<void> {
  const { rows }: { rows: Array<{ ours: boolean }> } = await transaction.raw(
    `SELECT count(*) = 4 AS ours FROM pg_attribute
     WHERE attrelid = to_regclass(?) AND attname IN ('id', 'name', 'batch', 'migration_time')
       AND to_regclass(?) IS NULL`,
    [OLD_BOOKS, BOOKS],
  );
  if (rows[0]?.ours !== true) {
    return;
  }
  const first: { rows: unknown[] } = await transaction.raw(`SELECT FROM ${OLD_BOOKS} WHERE name = '0001_initial'`);
  if (first.rows.length > 0) {
    await transaction.raw(`ALTER TABLE ${OLD_BOOKS} RENAME TO ${BOOKS}`);
    await transaction.raw(`ALTER TABLE IF EXISTS ${OLD_BOOKS}_lock RENAME TO ${BOOKS}_lock`);
  }
}

/** Turns the triggers of capture on or off. It changes nothing where they are so already, since a change waits for writers. */
async function setCapture(transaction: Knex.Transaction, on: boolean): Promise<void> {
  const { rows }: { rows: Array<{ tgname: string; tgenabled: string }> } = await transaction.raw(
    `SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'tasks'::regclass AND tgname = ANY(?)`,
    [[...CAPTURE_TRIGGERS]],
  );
  for (const { tgname, tgenabled } of rows) {
    if ((tgenabled === 'D') === on) {
      await transaction.raw(`ALTER TABLE tasks ${on ? 'ENABLE' : 'DISABLE'} TRIGGER ${tgname}`);
    }
  }
}
