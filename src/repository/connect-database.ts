import knex, { type Knex } from 'knex';
import type { SessionKind } from '../base/database-url.js';
import { isServerGone } from './database-errors.js';
import type { PoolWatch } from './database-watch.js';
import { SESSION_FACTS, ServerFinder, type SessionFacts, suits, wrongServer } from './server-finder.js';
import { type RawConnection, watchConnection } from './watched-connection.js';

/** How long a query waits for a free connection, and a connection for the server, in milliseconds. */
const ACQUIRE_MS = 3_000;
const STATEMENT_MS = 10_000;
const LOCK_MS = 3_000;
/** The client gives a statement up so much later than the server cancels it: only when the server is silent. */
const SILENCE_MS = 1_000;
const IDLE_TRANSACTION_MS = 30_000;
/** Connections are replaced after about an hour, so that a new address of the server is noticed in the end. */
const LIFETIME_MS = 3_600_000;
const LIFETIME_JITTER_MS = 600_000;

/**
 * Settings that the statements here rely on, whatever the defaults of the server, the database and the role are.
 *
 * Plans: every query has an index that gives it the order it wants. The planner must not take other ways while statistics
 * are missing or old; a prepared statement keeps its plan while a table grows, and one that was planned when the table was
 * small would read the whole table until statistics are renewed.
 */
export const SESSION_SETTINGS: Readonly<Record<string, string>> = {
  enable_seqscan: 'off',
  enable_bitmapscan: 'off',
  enable_indexscan: 'on',
  enable_indexonlyscan: 'on',
  enable_nestloop: 'on',
  plan_cache_mode: 'auto',
  jit: 'off',
  // A statement waits for the newest version of a row, instead of failing because there is one.
  default_transaction_isolation: 'read\\ committed',
  default_transaction_deferrable: 'off',
  // A commit that was confirmed survives a crash.
  synchronous_commit: 'on',
  // Each value has one text, whatever the settings of the server.
  extra_float_digits: '1',
  DateStyle: 'ISO',
  TimeZone: 'UTC',
  bytea_output: 'hex',
  standard_conforming_strings: 'on',
  transform_null_equals: 'off',
  array_nulls: 'on',
  exit_on_error: 'off',
};

export interface DatabaseOptions {
  /**
   * `postgres://user:password@host:port/database`. Several servers are separated by commas
   * (`postgres://user@one,two/database`): the one that takes writes is used. A socket's folder is given as `?host=/folder`.
   * With `?prepare=false` no prepared statements and no settings of sessions are used: for what gives connections to one
   * session after the other, as PgBouncer does in transaction mode.
   */
  readonly url: string;
  /** Most connections of this process; they are opened when they are needed. */
  readonly pool: number;
  /** Shown by the server's `pg_stat_activity`. */
  readonly applicationName?: string;
  /** Milliseconds after which the server cancels a statement (10,000). */
  readonly statementMs?: number;
  /** Milliseconds that a statement waits for a lock that another transaction holds (3,000). */
  readonly lockMs?: number;
  /** Which server is wanted when the URL does not say it (`target_session_attrs`): `read-write`. */
  readonly session?: SessionKind;
  /** Gets told how the queries went. */
  readonly watch?: PoolWatch;
  /** Told about connections that broke while idle, and of a server that is left because it takes no writes. */
  readonly onWarning?: (message: string) => void;
}

/**
 * Opens a pool of Postgres connections. Nothing is connected yet; `destroy()` closes it.
 *
 * A connection that is answered "read-only" is given up at once, and with it all others of its time: their server was
 * demoted. The next statement connects anew, to where the address leads then, or to the server of the URL that takes writes.
 * @throws Error when the URL cannot be read
 */
export function connectDatabase(options: DatabaseOptions): Knex {
  const { statementMs = STATEMENT_MS, lockMs = LOCK_MS } = options;
  const warn = (message: unknown): void => options.onWarning?.(String(message));
  const finder = new ServerFinder(options.url, options.session ?? 'read-write', ACQUIRE_MS);
  const settings = {
    application_name: options.applicationName ?? 'taskwire',
    connectionTimeoutMillis: ACQUIRE_MS,
    keepAlive: true,
    ...(finder.prepare
      ? {
          statement_timeout: statementMs,
          lock_timeout: lockMs,
          idle_in_transaction_session_timeout: IDLE_TRANSACTION_MS,
          options: startupOptions(finder.options),
        }
      : finder.options === undefined
        ? {}
        : { options: finder.options }),
  };
  const leave = (): void => {
    finder.lookAgain();
    warn('the database server takes no writes; connections are made anew');
  };
  const db = knex({
    client: 'pg',
    connection: async () => {
      const { url, stream } = await finder.find();
      return {
        connectionString: url,
        ...(stream === undefined ? {} : { stream }),
        ...settings,
        expirationChecker: () => finder.lost,
      };
    },
    pool: {
      min: 0,
      max: options.pool,
      createTimeoutMillis: ACQUIRE_MS + 500,
      maxConnectionLifetimeMillis: LIFETIME_MS,
      maxConnectionLifetimeJitterMillis: LIFETIME_JITTER_MS,
      afterCreate(connection: PooledConnection, ready: Ready) {
        connection.generation = finder.generation;
        watchConnection(connection, statementMs + SILENCE_MS, leave);
        checkSession(connection, finder, ready);
      },
      validate: (connection: PooledConnection) => connection.generation === finder.generation,
    },
    acquireConnectionTimeout: ACQUIRE_MS,
    log: { warn, error: warn, deprecate: warn, debug() {} },
  });
  leaveTheUnreachable(db, finder);
  return db.withUserParams({ prepare: finder.prepare, onServerGone: () => finder.noteGone(), watch: options.watch });
}

/**
 * A connection that cannot be made says that its server may be gone, whoever wanted it: a statement, a transaction, or
 * somebody who only listens.
 */
function leaveTheUnreachable(db: Knex, finder: ServerFinder): void {
  const client = db.client as { acquireRawConnection(): Promise<unknown> };
  const connect = client.acquireRawConnection.bind(client);
  client.acquireRawConnection = async () => {
    try {
      return await connect();
    } catch (error) {
      if (isServerGone(error)) {
        finder.noteGone();
      }
      throw error;
    }
  };
}

/** Whether statements of this pool may be prepared. */
export function prepares(db: Knex): boolean {
  return db.userParams['prepare'] === true;
}

/** A connection and the time of the search that it belongs to. */
interface PooledConnection extends RawConnection {
  generation: number;
}

/** Who is told how the queries of this pool went. */
export function watchOf(db: Knex): PoolWatch | undefined {
  return db.userParams['watch'] as PoolWatch | undefined;
}

/** Whether all connections of the pool are in use. */
export function isFull(db: Knex): boolean {
  const pool = db.client.pool as { numUsed(): number; readonly max: number } | undefined;
  return pool !== undefined && pool.numUsed() >= pool.max;
}

/** Tells the pool that a server may be gone: of several, the one that is wanted is looked for again. */
export function noteServerGone(db: Knex): void {
  (db.userParams['onServerGone'] as (() => void) | undefined)?.();
}

type Ready = (error: Error | null, connection: PooledConnection) => void;

/** Settings of the URL come first, so that those that the statements rely on override them. */
function startupOptions(own: string | undefined): string {
  const ours = Object.entries(SESSION_SETTINGS).map(([name, value]) => `-c ${name}=${value}`);
  return [...(own === undefined ? [] : [own]), ...ours].join(' ');
}

/** A new connection to a server of another kind than the wanted one is refused: the pool would keep it. */
function checkSession(connection: PooledConnection, finder: ServerFinder, ready: Ready): void {
  if (finder.kind === 'any' || finder.kind === 'prefer-standby') {
    ready(null, connection);
    return;
  }
  connection.query(SESSION_FACTS, (error, result) => {
    const facts = (result as { rows: SessionFacts[] } | undefined)?.rows[0];
    if (error !== null && error !== undefined) {
      ready(error, connection);
    } else if (facts === undefined || !suits(finder.kind, facts)) {
      finder.lookAgain();
      connection.connection.stream.destroy();
      ready(wrongServer(`The database server is not ${finder.kind} now`), connection);
    } else {
      ready(null, connection);
    }
  });
}
