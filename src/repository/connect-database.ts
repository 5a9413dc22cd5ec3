import knex, { type Knex } from 'knex';
import { leaveWhenSilent } from './silent-connection.js';

/** How long a query waits for a free connection, and a connection for the server, in milliseconds. */
const ACQUIRE_MS = 3_000;
const STATEMENT_MS = 10_000;
/** The client gives a statement up so much later than the server: that happens only when the server is not heard. */
const SILENCE_MS = 1_000;
const IDLE_TRANSACTION_MS = 30_000;

/**
 * Every query here has an index that gives it the order it wants. The planner must not take other ways while statistics
 * are missing or old; a prepared statement keeps its plan while a table grows, and one that was planned when
 * the table was small would read the whole table until statistics are renewed.
 */
const STEADY_PLANS = '-c enable_seqscan=off -c enable_bitmapscan=off';

export interface DatabaseOptions {
  /**
   * `postgres://user:password@host:port/database`, or a socket's folder as `?host=/folder`. With `?prepare=false` no
   * prepared statements are used: for what gives connections to one session after the other, as some poolers do.
   */
  readonly url: string;
  /** Most connections of this process; they are opened when they are needed. */
  readonly pool: number;
  /** Shown by the server's `pg_stat_activity`. */
  readonly applicationName?: string;
  /** Milliseconds after which the server cancels a statement (10,000). */
  readonly statementMs?: number;
  /** Told about connections that broke while idle; they are replaced. */
  readonly onWarning?: (message: string) => void;
}

/** Opens a pool of Postgres connections. Nothing is connected yet; `destroy()` closes it. */
export function connectDatabase(options: DatabaseOptions): Knex {
  const { statementMs = STATEMENT_MS } = options;
  const prepare = new URL(options.url).searchParams.get('prepare') !== 'false';
  const afterCreate = leaveWhenSilent(statementMs + SILENCE_MS);
  const warn = (message: unknown): void => options.onWarning?.(String(message));
  return knex({
    client: 'pg',
    connection: {
      connectionString: options.url,
      application_name: options.applicationName ?? 'taskwire',
      connectionTimeoutMillis: ACQUIRE_MS,
      statement_timeout: statementMs,
      idle_in_transaction_session_timeout: IDLE_TRANSACTION_MS,
      keepAlive: true,
      ...(prepare ? { options: STEADY_PLANS } : {}),
    },
    pool: { min: 0, max: options.pool, createTimeoutMillis: ACQUIRE_MS + 500, afterCreate },
    acquireConnectionTimeout: ACQUIRE_MS,
    log: { warn, error: warn, deprecate: warn, debug() {} },
  }).withUserParams({ prepare });
}

/** Whether statements of this pool may be prepared. */
export function prepares(db: Knex): boolean {
  return db.userParams['prepare'] === true;
}
