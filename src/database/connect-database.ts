import knex, { type Knex } from 'knex';
import type { SessionKind } from '../base/database-url.js';
import { AbandonedSessions, type PoolCounts } from './abandoned-sessions.js';
import type { Place } from './ask-server.js';
import { dropsSettings, isServerGone, noteUnconnected } from './database-errors.js';
import type { PoolWatch } from './database-watch.js';
import { SESSION_FACTS, ServerFinder, type SessionFacts, suits, wrongServer } from './server-finder.js';
import { type RawConnection, watchConnection } from './watched-connection.js';

/** How long a query waits for a free connection, and a connection for the server, in milliseconds. */
const ACQUIRE_MS = 3_000;
/** How often idle connections are looked through, in milliseconds: those that were idle for half a minute end. */
const REAP_MS = 5_000;
const STATEMENT_MS = 10_000;
const LOCK_MS = 3_000;
/** The client gives a statement up so much later than the server cancels it: only when the server is silent. */
const SILENCE_MS = 1_000;
const IDLE_TRANSACTION_MS = 30_000;
/** Connections are replaced after about an hour, so that a new address of the server is noticed in the end. */
const LIFETIME_MS = 3_600_000;
const LIFETIME_JITTER_MS = 600_000;
/** How long a connection to a server that is not the wanted one is used, in milliseconds. Then the wanted one is looked for again. */
const MAKE_DO_MS = 5_000;
/** How often statements that fail by how the database is set up have connections made anew, in milliseconds. */
const RENEW_MS = 5_000;

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
  /** Told of a server that is left because it takes no writes. */
  readonly onWarning?: (message: string) => void;
  /** Told of each connection that could not be made or has broken while idle. A pool that is in use says so by its `watch`. */
  readonly onNote?: (message: string) => void;
}

/**
 * Opens a pool of Postgres connections. Nothing is connected yet; `destroy()` closes it.
 *
 * A connection that is answered "read-only" or breaks is given up at once, and with it all others of its time: their server
 * was demoted, or is gone. The next statement connects anew, to where the address leads then, or to the server of the URL
 * that takes writes.
 * @throws Error when the URL cannot be read
 */
export function connectDatabase(options: DatabaseOptions): Knex {
  return connectPool(options, finderOf(options));
}

/** @throws Error when the URL cannot be read */
export const finderOf = ({ url, session = 'read-write' }: Pick<DatabaseOptions, 'url' | 'session'>): ServerFinder =>
  new ServerFinder(url, session, ACQUIRE_MS);

/**
 * One of several pools of a database.
 * @param finder what they share
 * @param makesDo whether connections to a server of another kind are used while there is none of the wanted kind: to one
 * that takes no writes for what only reads
 */
export function connectPool(options: DatabaseOptions, finder: ServerFinder, makesDo = false): Knex {
  const { statementMs = STATEMENT_MS, lockMs = LOCK_MS } = options;
  const note = (message: unknown): void => options.onNote?.(String(message));
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
  // A pooler knows its sessions itself, and the ids that it gives are not those of the server.
  const abandoned = finder.prepare ? new AbandonedSessions(finder) : undefined;
  const takesNoWrites = ({ generation }: PooledConnection): void => {
    if (finder.leave(generation)) {
      options.onWarning?.('the database server takes no writes; connections are made anew');
    }
  };
  const db = knex({
    client: 'pg',
    connection: async () => {
      const place = await finder.find(makesDo);
      const { url, stream } = place;
      return {
        connectionString: url,
        ...(stream === undefined ? {} : { stream }),
        ...settings,
        expirationChecker: expiration(finder, place),
      };
    },
    pool: {
      min: 0,
      max: options.pool,
      createTimeoutMillis: ACQUIRE_MS + 500,
      reapIntervalMillis: REAP_MS,
      maxConnectionLifetimeMillis: LIFETIME_MS,
      maxConnectionLifetimeJitterMillis: LIFETIME_JITTER_MS,
      afterCreate(connection: PooledConnection, ready: Ready) {
        connection.generation = finder.generation;
        connection.until = Number.POSITIVE_INFINITY;
        watchConnection(
          connection,
          statementMs + SILENCE_MS,
          () => takesNoWrites(connection),
          () => abandoned?.add(connection.processID),
        );
        // The first says why; what follows is only that the connection has ended.
        connection.once('error', (error) => {
          if (isServerGone(error)) {
            finder.leave(connection.generation);
          }
        });
        checkSession(connection, finder, makesDo, ready);
      },
      validate: ({ generation, until }: PooledConnection) =>
        generation === finder.generation && performance.now() < until,
    },
    acquireConnectionTimeout: ACQUIRE_MS,
    log: { warn: note, error: note, deprecate: note, debug() {} },
  });
  watchConnects(db, finder, abandoned);
  return db.withUserParams({ prepare: finder.prepare, renew: renewal(finder), watch: options.watch, abandoned });
}

/** Whether connections have to go to another place now. One that is made do with is used for a moment. */
function expiration(finder: ServerFinder, place: Place): () => boolean {
  if (finder.found === place) {
    return () => finder.found !== place;
  }
  const until = performance.now() + MAKE_DO_MS;
  return () => finder.found !== undefined || performance.now() >= until;
}

/**
 * A connection is made only when there is a place for its session. One that cannot be made says that its server may be gone,
 * whoever wanted it: a statement, a transaction, or somebody who only listens.
 */
function watchConnects(db: Knex, finder: ServerFinder, abandoned: AbandonedSessions | undefined): void {
  const client = db.client as { acquireRawConnection(): Promise<unknown>; readonly pool: PoolCounts };
  const connect = client.acquireRawConnection.bind(client);
  client.acquireRawConnection = async () => {
    try {
      await abandoned?.admit(client.pool);
      return await connect();
    } catch (error) {
      if (isServerGone(error)) {
        finder.noteGone();
      }
      throw noteUnconnected(error);
    }
  };
}

/** Whether statements of this pool may be prepared. */
export function prepares(db: Knex): boolean {
  return db.userParams['prepare'] === true;
}

/** A connection, and the search that it belongs to. */
export interface PooledConnection extends RawConnection {
  generation: number;
  /** Until when it is used, by the clock of `performance`. */
  until: number;
  once(event: 'error', listener: (error: Error) => void): unknown;
}

/** Who is told how the queries of this pool went. */
export function watchOf(db: Knex): PoolWatch | undefined {
  return db.userParams['watch'] as PoolWatch | undefined;
}

/** Whether all connections of the pool are in use, or were given up and are still in use by the server. */
export function isFull(db: Knex): boolean {
  const pool = db.client.pool as PoolCounts | undefined;
  const abandoned = db.userParams['abandoned'] as AbandonedSessions | undefined;
  return pool !== undefined && pool.numUsed() + (abandoned?.taken ?? 0) >= pool.max;
}

/** Has the pool make its connections anew: those of now may have been opened when the database was set up in another way. */
export function renewConnections(db: Knex): void {
  (db.userParams['renew'] as (() => void) | undefined)?.();
}

/** Not for each of many statements that fail. */
function renewal(finder: ServerFinder): () => void {
  let next = Number.NEGATIVE_INFINITY;
  return () => {
    if (performance.now() >= next) {
      next = performance.now() + RENEW_MS;
      finder.lookAgain();
    }
  };
}

type Ready = (error: Error | null, connection: PooledConnection) => void;

/** Settings of the URL come first, so that those that the statements rely on override them. */
function startupOptions(own: string | undefined): string {
  const ours = Object.entries(SESSION_SETTINGS).map(([name, value]) => `-c ${name}=${value}`);
  return [...(own === undefined ? [] : [own]), ...ours].join(' ');
}

/** A new connection to a server of another kind than the wanted one is refused, or used for a moment. */
function checkSession(connection: PooledConnection, finder: ServerFinder, makesDo: boolean, ready: Ready): void {
  const refuse = (error: Error): void => {
    connection.connection.stream.destroy();
    ready(error, connection);
  };
  connection.query(SESSION_FACTS, (error, result) => {
    const facts = (result as { rows: SessionFacts[] } | undefined)?.rows[0];
    if (error !== null && error !== undefined) {
      refuse(error);
      return;
    }
    if (finder.prepare && facts?.seqscan !== SESSION_SETTINGS['enable_seqscan']) {
      refuse(dropsSettings());
    } else if (facts !== undefined && suits(finder.kind, facts)) {
      finder.suited(facts);
      connection.generation = finder.generation;
      ready(null, connection);
    } else if (makesDo) {
      finder.makeDo();
      connection.generation = finder.generation;
      connection.until = performance.now() + MAKE_DO_MS;
      ready(null, connection);
    } else {
      if (facts !== undefined) {
        finder.check(facts);
      }
      refuse(wrongServer(`The database server is not ${finder.kind} now`));
    }
  });
}

/** What a session of a pool says. */
export async function sessionFacts(db: Knex): Promise<SessionFacts> {
  const { rows } = (await db.raw(SESSION_FACTS)) as { rows: SessionFacts[] };
  return rows[0]!;
}
