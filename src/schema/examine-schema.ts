import type { Knex } from 'knex';
import { STEP_TABLES } from './migrations.js';

/** Table in which knex keeps which steps were applied. */
export const BOOKS = 'taskwire_migrations';

/** How far a schema is, compared with the steps that this version knows. */
export interface SchemaFacts {
  readonly schema: string | null;
  /** Whether all tables of the steps that were applied are there, and there are some. */
  readonly made: boolean;
  /** Steps that are to be applied yet. */
  readonly pending: readonly string[];
  /** Steps that were applied by a newer version. */
  readonly newer: readonly string[];
  /** Tables of steps that were applied which are not there. */
  readonly missing: readonly string[];
  /** What another program has under the names of tables that are to be made. */
  readonly taken: readonly string[];
}

/** Changes nothing, and waits for nobody. */
export async function examineSchema(db: Knex): Promise<SchemaFacts> {
  const { rows: books }: { rows: Array<{ schema: string | null; there: boolean }> } = await db.raw(
    `SELECT current_schema() AS schema, EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
       WHERE n.nspname = current_schema() AND c.relname = ?) AS there`,
    [BOOKS],
  );
  const { schema, there } = books[0]!;
  const { rows }: { rows: Array<{ name: string }> } = there
    ? await db.raw(`SELECT name FROM ${BOOKS} ORDER BY id`)
    : { rows: [] };
  const applied = new Set(rows.map(({ name }) => name));
  const known = new Set(STEP_TABLES.map(({ name }) => name));
  const tablesOf = (done: boolean): string[] =>
    STEP_TABLES.flatMap(({ name, tables }) => (applied.has(name) === done ? tables : []));
  const { rows: names }: { rows: Array<{ missing: string[]; taken: string[] }> } = await db.raw(
    `SELECT ARRAY(SELECT name FROM unnest(?::text[]) AS t (name) WHERE to_regclass(name) IS NULL) AS missing,
       ARRAY(SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = current_schema() AND c.relname = ANY (?::text[]) ORDER BY 1) AS taken`,
    [tablesOf(true), tablesOf(false)],
  );
  const { missing, taken } = names[0]!;
  return {
    schema,
    made: applied.size > 0 && missing.length === 0,
    pending: [...known].filter((name) => !applied.has(name)),
    newer: [...applied].filter((name) => !known.has(name)),
    missing,
    taken,
  };
}
