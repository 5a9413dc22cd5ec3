import { setTimeout as sleep } from 'node:timers/promises';
import type { Knex } from 'knex';
import { TaskwireError } from '../protocol/errors.js';
import { isDatabaseUnavailable } from './database-errors.js';
import { migrationSource } from './migrations.js';

/** Key of the advisory lock: the letters `taskwire` as a 64-bit number. */
const LOCK_KEY = '8386110886542668389';
const RETRY_MS = 100;
const PATIENCE_MS = 60_000;

/**
 * Brings the schema up to date. Any number of processes may call it at once: one works, the others wait for it.
 *
 * All steps and knex's own bookkeeping are one transaction under an advisory lock of that transaction, so a process that
 * dies half-way leaves nothing behind, no lock either.
 *
 * @returns names of the steps that were applied, none when the schema was up to date
 * @throws TaskwireError DATABASE_UNAVAILABLE
 */
export async function migrate(db: Knex): Promise<string[]> {
  const end = performance.now() + PATIENCE_MS;
  try {
    for (;;) {
      const applied = await db.transaction((transaction) => attempt(transaction));
      if (applied !== undefined) {
        return applied;
      }
      if (performance.now() > end) {
        throw new TaskwireError('DATABASE_UNAVAILABLE', { message: 'Another process is migrating the database' });
      }
      await sleep(RETRY_MS);
    }
  } catch (error) {
    throw isDatabaseUnavailable(error) ? new TaskwireError('DATABASE_UNAVAILABLE', { cause: error }) : error;
  }
}

/** @returns undefined when another process has the lock: waiting for it within a statement would run into timeouts */
async function attempt(transaction: Knex.Transaction): Promise<string[] | undefined> {
  const lock: { rows: Array<{ mine: boolean }> } = await transaction.raw(
    'SELECT pg_try_advisory_xact_lock(?::bigint) AS mine',
    [LOCK_KEY],
  );
  if (lock.rows[0]?.mine !== true) {
    return undefined;
  }
  const [, names]: [number, string[]] = await transaction.migrate.latest({
    migrationSource,
    tableName: 'schema_migrations',
    disableTransactions: true,
  });
  return names;
}
