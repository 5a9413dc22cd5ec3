import type { Knex } from 'knex';

/** What a database allows and how it is set, as far as the service depends on it. */
export interface DatabaseFacts {
  readonly version: string;
  readonly schema: string | null;
  /** Whether this user may make tables in that schema: `migrate` needs it. */
  readonly mayCreate: boolean;
  /** Whether sessions here take no writes. */
  readonly readOnly: boolean;
  /** Triggers of ours that are turned off: what other programs write is not heard then. */
  readonly disabledTriggers: readonly string[];
  /** Tables of the schema that this user may not read and write. */
  readonly refusedTables: readonly string[];
  /** Sessions that the server has for users like this one. */
  readonly maxSessions: number;
  /** Milliseconds by which the server's clock is ahead of this process's. */
  readonly clockAheadMs: number;
  /** Milliseconds of one question and answer. */
  readonly roundTripMs: number;
}

/** @throws when the database does not answer */
export async function examineDatabase(db: Knex): Promise<DatabaseFacts> {
  // The first statement also connects.
  await db.raw('SELECT 1');
  const before = Date.now();
  const start = performance.now();
  const { rows: clock } = (await db.raw('SELECT extract(epoch FROM clock_timestamp()) * 1000 AS now')) as {
    rows: Array<{ now: string }>;
  };
  const roundTripMs = performance.now() - start;
  const { rows } = (await db.raw(
    `SELECT current_setting('server_version') AS version, current_schema() AS schema,
      coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) AS may_create,
      current_setting('transaction_read_only') = 'on' AS read_only,
      current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS max_sessions,
      ARRAY(SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p') AND NOT (has_table_privilege(c.oid, 'SELECT')
          AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE')
          AND has_table_privilege(c.oid, 'DELETE')) ORDER BY 1) AS refused_tables,
      ARRAY(SELECT t.tgname::text FROM pg_trigger t
        WHERE t.tgrelid IN (to_regclass('tasks'), to_regclass('task_changes'), to_regclass('users'))
          AND t.tgname LIKE 'taskwire\\_%' AND t.tgenabled IN ('D', 'R') ORDER BY 1) AS disabled_triggers`,
  )) as { rows: Array<Record<string, unknown>> };
  const row = rows[0]!;
  return {
    version: String(row['version']),
    schema: row['schema'] as string | null,
    mayCreate: row['may_create'] === true,
    readOnly: row['read_only'] === true,
    disabledTriggers: row['disabled_triggers'] as string[],
    refusedTables: row['refused_tables'] as string[],
    maxSessions: Number(row['max_sessions']),
    clockAheadMs: Math.round(Number(clock[0]!.now) - before - roundTripMs / 2),
    roundTripMs: Math.round(roundTripMs * 10) / 10,
  };
}
