import type { Knex } from 'knex';
import { isFull, prepares } from './connect-database.js';
import { isAcquireTimeout, reworded } from './database-errors.js';

/** What a server or a pooler says that it will say again at every attempt, and what to do about it. */
const ADVICE: ReadonlyArray<readonly [said: RegExp, advice: string]> = [
  [
    /transaction blocks not allowed in statement pooling mode/,
    'A pooler in front of the database is in statement mode, which has no transactions: set pool_mode = transaction in it',
  ],
  [
    /client password must be a (?:non-empty )?string/,
    'The database wants a password, and there is none: write it in the URL, or set PGPASSWORD',
  ],
  [
    /server does not support SSL connections/,
    'The server has no TLS: turn ssl on there, or write sslmode=disable in the URL',
  ],
];

/** What a pool says in which no connection could be made: it suspects its own size. */
function notAnswering(error: Error): Error {
  const told = reworded(
    error,
    'The database does not answer in time: it is held up, or something on the way (a firewall) drops what is sent to it',
  );
  // By its name it is known for one that may be over after a while.
  told.name = error.name;
  return told;
}

/**
 * An error of a connection that would come at every attempt, said so that its reader knows what to do; any other error as it
 * is.
 * @param db the pool that it happened in
 */
export function advised(db: Knex, error: unknown): unknown {
  if (!(error instanceof Error)) {
    return error;
  }
  // PgBouncer closes the connection with this word.
  const parameter = /unsupported startup parameter: (\w+)/.exec(error.message)?.[1];
  if (parameter !== undefined) {
    return reworded(
      error,
      `A pooler in front of the database takes no settings of sessions: ${
        prepares(db)
          ? 'add ?prepare=false to DATABASE_URL'
          : `take ${parameter} out of the URL, and set it with ALTER ROLE`
      }`,
    );
  }
  if (isAcquireTimeout(error) && !isFull(db)) {
    return notAnswering(error);
  }
  const advice = ADVICE.find(([said]) => said.test(error.message))?.[1];
  return advice === undefined ? error : reworded(error, advice);
}
