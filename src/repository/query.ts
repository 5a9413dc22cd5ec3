import type { Knex } from 'knex';
import { TaskwireError } from '../protocol/errors.js';
import { isDatabaseUnavailable } from './database.js';

/**
 * Runs one statement; the only way by which this folder's queries reach the database.
 * @param sql with `?` for each binding
 * @throws TaskwireError DATABASE_UNAVAILABLE (the driver's error as `cause`) when the database cannot serve now
 */
export async function query<Row>(db: Knex, sql: string, bindings: readonly unknown[]): Promise<Row[]> {
  try {
    const result: { rows: Row[] } = await db.raw(sql, bindings as Knex.RawBinding[]);
    return result.rows;
  } catch (error) {
    throw isDatabaseUnavailable(error) ? new TaskwireError('DATABASE_UNAVAILABLE', { cause: error }) : error;
  }
}
