import { setTimeout as sleep } from 'node:timers/promises';
import type { Knex } from 'knex';
import { advised } from '../database/connect-advice.js';
import { isAway, isLockTimeout } from '../database/database-errors.js';
import { TaskwireError } from '../protocol/errors.js';
import { type Capture, examineCapture, type Repair, repairsOf } from './capture-repair.js';
import { BOOKS, examineSchema } from './examine-schema.js';
import { migrationSource } from './migrations.js';

/** Key of the advisory lock: the letters `taskwire` as a 64-bit number. */
const LOCK_KEY = '8386110886542668389';
const RETRY_MS = 100;
/** Name of the table of applied steps in earlier versions. */
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
  /** Told of what is not as it should be, and of what was mended that somebody has dropped. */
  readonly onWarning?: (message: string) => void;
}

/**
 * Brings the schema up to date. Any number of processes may call it at once: one works, the others wait for it.
 *
 * All steps and knex's own bookkeeping are one transaction under an advisory lock of that transaction, so a process that
 * dies half-way leaves nothing behind, no lock either. It may run while others write: where they hold a table for longer than
 * a moment, it gives up and begins again, for up to a minute.
 *
 * A schema that a newer version has brought further is left as it is: in a rolling upgrade, instances of the version before
 * are started again beside new ones.
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
        const outcome = await db.transaction((transaction) => attempt(transaction, options));
        if (outcome !== undefined) {
          for (const warning of outcome.warnings) {
            options.onWarning?.(warning);
          }
          return outcome.applied;
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
    const error = advised(db, thrown);
    throw isAway(error) ? new TaskwireError('DATABASE_UNAVAILABLE', { cause: error }) : error;
  }
}

interface Outcome {
  readonly applied: string[];
  readonly warnings: readonly string[];
}

/** @returns undefined when another process has the lock. The caller tries again: a statement that waits would time out. */
async function attempt(transaction: Knex.Transaction, { capture }: MigrateOptions): Promise<Outcome | undefined> {
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
  const { schema, pending, newer, missing, taken } = await examineSchema(transaction);
  if (newer.length > 0) {
    if (pending.length > 0) {
      throw new Error(
        `The schema has steps of another version (${newer.join(', ')}) and lacks ${pending.join(', ')}: run the newest version`,
      );
    }
    return {
      applied: [],
      warnings: [`the schema is of a newer version (${newer.join(', ')}): it is used as it is; update this instance`],
    };
  }
  if (schema === null) {
    throw new Error(
      'There is no schema of this search_path: make one, or name one in DATABASE_URL with options=-csearch_path%3DNAME',
    );
  }
  if (taken.length > 0) {
    throw new Error(
      `Another program has ${taken.join(', ')} in schema ${schema}: make a schema for taskwire, and name it in ` +
        'DATABASE_URL with options=-csearch_path%3DNAME',
    );
  }
  let applied: string[] = [];
  if (pending.length > 0) {
    await lockTables(transaction, wait);
    [, applied] = await transaction.migrate.latest({ migrationSource, tableName: BOOKS, disableTransactions: true });
  }
  if (missing.length > 0) {
    return { applied, warnings: [`${missing.join(', ')} of the schema is not there: restore it from a backup`] };
  }
  return { applied, warnings: await repairCapture(transaction, capture, wait) };
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

/**
 * Turns capture on or off, and makes what somebody has dropped of it. A user who may not do that goes on, as long as only
 * other writers suffer.
 * @returns what is to be told of it
 */
async function repairCapture(transaction: Knex.Transaction, capture: Capture, wait: number): Promise<string[]> {
  const repairs = repairsOf(await examineCapture(transaction), capture);
  if (repairs.length === 0) {
    return [];
  }
  const made = namesOf(repairs, 'make');
  try {
    // Undone alone when this user may not do it.
    await transaction.transaction(async (part) => {
      if (made.length > 0 || repairs.some(({ table }) => table !== 'tasks')) {
        await lockTables(part, wait);
      }
      for (const { statement } of repairs) {
        await part.raw(statement);
      }
    });
  } catch (error) {
    if ((error as { code?: unknown }).code !== '42501' || capture === 'off') {
      throw error;
    }
    return [unmended(repairs)];
  }
  return made.length === 0
    ? []
    : [`${made.join(', ')} had been dropped and was made again: run taskwire renew-epochs, as changes were not heard`];
}

const namesOf = (repairs: readonly Repair[], kind: Repair['kind']): string[] =>
  repairs.flatMap((repair) => (repair.kind === kind ? (repair.what ?? []) : []));

function unmended(repairs: readonly Repair[]): string {
  const [made, enabled] = [namesOf(repairs, 'make'), repairs.filter(({ kind }) => kind === 'enable')];
  const todo = [
    ...(made.length === 0 ? [] : [`run taskwire migrate (${made.join(', ')} is not there)`]),
    ...enabled.map(({ statement }) => statement),
  ];
  return `what other programs write is not heard, and this user may not mend it; as the owner of the tables: ${todo.join('; ')}`;
}
