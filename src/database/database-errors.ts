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

/** SQLSTATEs of a database that is not as it was set up: the statements here are always the same ones. */
const MISFIT_STATES = new Set([
  '3F000', // no such schema
  '42501', // this role may not do it
  '42883', // no such function
  '42P01', // no such table
]);

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

/** Errors of the driver and the pool that have no code, only a text. */
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
 * Whether a statement met others in a way that Postgres resolved by undoing it (serialization failure, deadlock): it has
 * changed nothing, and the same statement succeeds when they have gone on.
 */
export function isConflict(error: unknown): boolean {
  const { code, cause } = error as { code?: unknown; cause?: unknown };
  return code === '40001' || code === '40P01' || (cause !== undefined && isConflict(cause));
}

/** Whether a statement gave up waiting for a lock. */
export const isLockTimeout = (error: unknown): boolean => (error as { code?: unknown }).code === '55P03';

/** Whether a statement was refused because its server takes no writes: it is a standby, or was demoted. */
export const isReadOnly = (error: unknown): boolean => (error as { code?: unknown }).code === '25006';

/** Whether a query gave up waiting for a connection of its pool. */
export const isAcquireTimeout = (error: unknown): boolean =>
  error instanceof Error && (error.name === 'KnexTimeoutError' || error.name === 'TimeoutError');

/** Whether the server answers and takes no writes: it is a standby, its disk is full, or it was told so. */
export const refusesWrites = (error: unknown): boolean =>
  isReadOnly(error) || ['53100', '53400'].includes(String((error as { code?: unknown }).code));

/**
 * Whether a statement failed by how the database is set up now: rights were taken, a table is missing, or the session has
 * another `search_path` than it should.
 */
export const isMisfit = (error: unknown): boolean =>
  error instanceof Error && MISFIT_STATES.has(String((error as { code?: unknown }).code));

/** Errors of connections that could not be made. Whatever they say, no statement is to blame. */
const unconnected = new WeakSet<object>();

/** Marks the error of a connection that could not be made. @returns the error */
export function noteUnconnected<Thrown>(error: Thrown): Thrown {
  if (error instanceof Error) {
    unconnected.add(error);
  }
  return error;
}

/** What a connection says that could not be made because a pooler ignores settings of sessions. */
export const dropsSettings = (): Error =>
  noteUnconnected(
    // It gives sessions of the server to one client after the other.
    new Error('A pooler in front of the database drops the settings of sessions: add ?prepare=false to DATABASE_URL'),
  );

/** Whether an error says something about the server, and not only about one statement of it. */
export function isServerTrouble(error: unknown): boolean {
  const { code } = error as { code?: unknown };
  const own = ['57014', '25P03', '40001', '40P01', '55P03'];
  return isDatabaseUnavailable(error) && !(typeof code === 'string' && own.includes(code));
}

/** An error in words that say what to do. Whether its connection could not be made stays known; whether trying again helps does not. */
export function reworded(error: Error, message: string): Error {
  const told = new Error(message, { cause: error });
  return unconnected.has(error) ? noteUnconnected(told) : told;
}

/** What the server or the driver said, without the statement that knex puts before it. */
export function causeText(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0) {
    return causeText(error.errors[0]);
  }
  const { message } = error as Error;
  return message.slice(message.lastIndexOf(' - ') + 1).replace(/^- /, '');
}

/** Whether an error says that the connection, and perhaps its server, is gone. */
export function isServerGone(error: unknown): boolean {
  const { code } = error as { code?: unknown };
  // 57P05: the session had nothing to do for longer than the server allows.
  return isAway(error) && (typeof code !== 'string' || SYSTEM_CODES.has(code) || /^(?:08|57P(?!05))/.test(code));
}

/**
 * Whether an error says that the database cannot serve now, so that the same query may succeed later; false for errors of
 * the query itself.
 */
export const isDatabaseUnavailable = (error: unknown): boolean =>
  isAway(error) || isMisfit(error) || (error instanceof Error && unconnected.has(error));

/** Whether an error says that the database cannot be reached or cannot serve now, and may well by itself after a while. */
export function isAway(error: unknown): boolean {
  if (!(error instanceof Error)) {
    return false;
  }
  const { code, name } = error as NodeJS.ErrnoException;
  if (typeof code === 'string' && /^[0-9A-Z]{5}$/.test(code) && !SYSTEM_CODES.has(code)) {
    return SQL_STATES.some((state) => code.startsWith(state));
  }
  if (code !== undefined && SYSTEM_CODES.has(code)) {
    return true;
  }
  // A host with several addresses fails with one error per address.
  if (error instanceof AggregateError && error.errors.length > 0) {
    return error.errors.every(isAway);
  }
  const text = causeText(error);
  return name === 'KnexTimeoutError' || name === 'TimeoutError' || MESSAGES.some((pattern) => pattern.test(text));
}
