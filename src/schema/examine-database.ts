import type { Knex } from 'knex';
import { prepares } from '../database/connect-database.js';

/** What a database allows and how it is set, as far as the service depends on it. */
export interface DatabaseFacts {
  readonly version: string;
  readonly schema: string | null;
  /** Whether this user may make tables in that schema: `migrate` needs it. */
  readonly mayCreate: boolean;
  /** Whether sessions here take no writes. */
  readonly readOnly: boolean;
  /** Whether it is a replica of another server. */
  readonly standby: boolean;
  /** Whether the settings that the service makes in its sessions are taken; it makes none with `prepare=false`. */
  readonly takesSettings: boolean;
  /** Tables of the log whose owner this user is not: it cannot close and drop them. */
  readonly notOwned: readonly string[];
  /** Tables of the schema that this user may not read and write. */
  readonly refusedTables: readonly string[];
  /** Sessions that there are for users like this one, and where that is set. */
  readonly maxSessions: number;
  readonly maxSessionsOf: string;
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
      pg_is_in_recovery() AS standby,
      (SELECT source = 'client' FROM pg_settings WHERE name = 'enable_seqscan') AS settings,
      current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int AS max_sessions,
      (SELECT rolsuper FROM pg_roles WHERE rolname = session_user) AS superuser,
      (SELECT rolconnlimit FROM pg_roles WHERE rolname = session_user) AS role_sessions,
      (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS database_sessions,
      ARRAY(SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = current_schema() AND c.relkind = 'r' AND c.relname ~ '^task_events(_[0-9]+)*$'
          AND NOT pg_has_role(c.relowner, 'USAGE') ORDER BY 1) AS not_owned,
      ARRAY(SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p') AND NOT (has_table_privilege(c.oid, 'SELECT')
          AND has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE')
          AND has_table_privilege(c.oid, 'DELETE')) ORDER BY 1) AS refused_tables`,
  )) as { rows: Array<Record<string, unknown>> };
  const row = rows[0]!;
  return {
    version: String(row['version']),
    schema: row['schema'] as string | null,
    mayCreate: row['may_create'] === true,
    readOnly: row['read_only'] === true,
    standby: row['standby'] === true,
    takesSettings: !prepares(db) || row['settings'] === true,
    notOwned: row['not_owned'] as string[],
    refusedTables: row['refused_tables'] as string[],
    ...fewestSessions(db, row),
    clockAheadMs: Math.round(Number(clock[0]!.now) - before - roundTripMs / 2),
    roundTripMs: Math.round(roundTripMs * 10) / 10,
  };
}

/** Behind a pooler only the server's own bound is looked at: how many sessions a role has there is the pooler's matter. */
function fewestSessions(db: Knex, row: Record<string, unknown>): Pick<DatabaseFacts, 'maxSessions' | 'maxSessionsOf'> {
  const bounds: Array<[sessions: number, of: string]> = [[Number(row['max_sessions']), 'max_connections']];
  if (prepares(db) && row['superuser'] !== true) {
    bounds.push(
      [Number(row['role_sessions'] ?? -1), 'CONNECTION LIMIT of the role'],
      [Number(row['database_sessions'] ?? -1), 'CONNECTION LIMIT of the database'],
    );
  }
  const [maxSessions, maxSessionsOf] = bounds
    .filter(([sessions]) => sessions >= 0)
    .reduce((least, bound) => (bound[0] < least[0] ? bound : least));
  return { maxSessions, maxSessionsOf };
}

/** @throws when transactions are not possible, as behind a pooler in statement mode */
export async function tryTransaction(db: Knex): Promise<void> {
  await db.transaction((transaction) => transaction.raw('SELECT 1'));
}

/** @returns undefined when this user may not read what is asked for */
export async function unlessRefused<Answer>(question: Promise<Answer>): Promise<Answer | undefined> {
  try {
    return await question;
  } catch (error) {
    if ((error as { code?: unknown }).code !== '42501') {
      throw error;
    }
    return undefined;
  }
}
