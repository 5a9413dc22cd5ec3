import type { Socket } from 'node:net';
import knex, { type Knex } from 'knex';

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

type Done = (error: Error | null, result: unknown) => void;

/** What knex uses of a connection, and its socket. */
interface RawConnection {
  query(config: unknown, done: Done): unknown;
  readonly connection: { readonly stream: Socket };
}

/**
 * Closes a connection on which queries wait and nothing is answered: the server behind it is gone, and the pool would hand
 * it to one query after the other. One timer serves all queries of a connection; the driver's own, one per query, are
 * most of what a write costs the garbage collector.
 * @param silentMs how long an answer may take, in milliseconds
 */
function leaveWhenSilent(silentMs: number) {
  return (connection: RawConnection, ready: (error: null, connection: RawConnection) => void): void => {
    const query = connection.query.bind(connection);
    let waiting = 0;
    let since = 0;
    let timer: NodeJS.Timeout | undefined;

    function watch(ms: number): void {
      // What is on its way to a process that was held up is read before it is missed.
      timer = setTimeout(() => setImmediate(look), ms).unref();
    }

    function look(): void {
      timer = undefined;
      const left = since + silentMs - performance.now();
      if (waiting > 0 && left > 0) {
        watch(left);
      } else if (waiting > 0) {
        const error = new Error('The database does not answer');
        connection.connection.stream.destroy(Object.assign(error, { code: 'ETIMEDOUT' }));
      }
    }

    connection.query = (config: unknown, done: Done) => {
      waiting += 1;
      since = performance.now();
      if (timer === undefined) {
        watch(silentMs);
      }
      return query(config, (error, result) => {
        waiting -= 1;
        since = performance.now();
        done(error, result);
      });
    };
    ready(null, connection);
  };
}

/** SQLSTATEs, or their classes, of a server that cannot serve now and may well later. */
const SQL_STATES = [
  '08', // connection exception
  '53', // insufficient resources: too many connections, disk or memory full
  '57', // operator intervention: shut down, crash, still starting, statement timeout
  '58', // system error
  '25006', // read-only: a replica that is being promoted, or the primary of yesterday
  '25P03', // idle in transaction for too long
  '40001', // serialization failure
  '40P01', // deadlock
  '55P03', // lock not available
];

const SYSTEM_CODES = new Set([
  'ECONNREFUSED',
  'ECONNRESET',
  'ECONNABORTED',
  'EPIPE',
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOTFOUND',
  'EAI_AGAIN',
  'ENOENT',
]);

/** The driver and the pool name these by their text only. */
const MESSAGES = [
  /^Timeout acquiring a connection/,
  /^Knex: Timeout acquiring/,
  /^Connection terminated/,
  /^Connection ended unexpectedly/,
  /^timeout expired$/,
  /^Unable to acquire a connection/,
  /not queryable$/,
];

/**
 * Whether an error says that the database cannot be reached or cannot serve now, so that the same query may succeed
 * later; false for errors of the query itself.
 */
export function isDatabaseUnavailable(error: unknown): boolean {
  if (!(error instanceof Error)) {
    return false;
  }
  const { code, name, message } = error as NodeJS.ErrnoException;
  if (typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) && !SYSTEM_CODES.has(code)) {
    return SQL_STATES.some((state) => code.startsWith(state));
  }
  if (code !== undefined && SYSTEM_CODES.has(code)) {
    return true;
  }
  // A host with several addresses fails with one error per address.
  if (error instanceof AggregateError && error.errors.length > 0) {
    return error.errors.every(isDatabaseUnavailable);
  }
  // knex puts the statement before the driver's text.
  const text = message.slice(message.lastIndexOf(' - ') + 1).replace(/^- /, '');
  return name === 'KnexTimeoutError' || name === 'TimeoutError' || MESSAGES.some((pattern) => pattern.test(text));
}
