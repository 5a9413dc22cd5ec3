import { resolve } from 'node:path';
import type { Knex } from 'knex';
import { parseDatabaseUrl } from '../base/database-url.js';
import { type Config, postgresWarnings } from '../config.js';
import { advised } from '../database/connect-advice.js';
import { connectDatabase } from '../database/connect-database.js';
import { causeText, isReadOnly } from '../database/database-errors.js';
import { examineFolder } from '../embedded/embedded-database.js';
import { examineCapture } from '../schema/capture-repair.js';
import { type DatabaseFacts, examineDatabase, tryTransaction, unlessRefused } from '../schema/examine-database.js';
import { examineReads, type StreamEpoch, someStreams } from '../schema/examine-reads.js';
import { examineSchema, type SchemaFacts } from '../schema/examine-schema.js';
import type { Finding } from './finding.js';

/** Most difference of the clocks, in milliseconds: tokens, leases and rate limits depend on both. */
const MAX_CLOCK_MS = 1_000;
/** At least so many connections are used by a worker. */
const FEWEST_CONNECTIONS = 3;

type Say = (status: Finding['status'], message: string, hint?: string) => void;

/** The servers of DATABASE_URL and DATABASE_READ_URL, or the folder of the embedded database. */
export async function checkDatabase(config: Config): Promise<Finding[]> {
  const { DATABASE_URL, DATABASE_READ_URL, DATA_DIR } = config;
  if (DATABASE_URL === undefined) {
    return [checkFolder(DATA_DIR)];
  }
  const findings: Finding[] = postgresWarnings(config).map((message) => ({
    check: 'postgres',
    status: 'warning',
    message,
  }));
  let streams: StreamEpoch[] | undefined;
  await examined(DATABASE_URL, 'DATABASE_URL', findings, async (db, say) => {
    const facts = await examineDatabase(db);
    checkSessions(facts, config, say);
    const schema = await unlessRefused(examineSchema(db));
    checkRights(facts, say);
    if (schema !== undefined) {
      await checkSchema(db, schema, config, say);
      streams = schema.made ? await unlessRefused(someStreams(db)) : undefined;
    }
    await tryTransaction(db);
    findings.push(clockOf(facts));
  });
  if (DATABASE_READ_URL !== undefined) {
    await examined(DATABASE_READ_URL, 'DATABASE_READ_URL', findings, (db, say) => checkReplica(db, streams, say));
  }
  return findings;
}

/** Connects, and says why that, or a question of the work, has failed. */
async function examined(
  url: string,
  variable: 'DATABASE_URL' | 'DATABASE_READ_URL',
  findings: Finding[],
  work: (db: Knex, say: Say) => Promise<void>,
): Promise<void> {
  const check = variable === 'DATABASE_URL' ? 'postgres' : 'replica';
  const say: Say = (status, message, hint) => findings.push({ check, status, message, hint });
  const db = open(url, variable === 'DATABASE_URL' ? {} : { session: 'any' });
  try {
    await work(db, say);
  } catch (thrown) {
    if (isReadOnly(thrown) && check === 'postgres') {
      await sayNotWritable(url, thrown, say);
    } else {
      const error = advised(db, thrown) as Error & { code?: string };
      const words = causeText(error).replace(/\bDATABASE_URL\b/, variable);
      say('failed', words || (error.code ?? 'no answer'), `see ${variable}`);
    }
  } finally {
    await db.destroy();
  }
}

const open = (url: string, options: { session?: 'any' } = {}): Knex =>
  connectDatabase({ url, pool: 1, applicationName: 'taskwire check', ...options });

/** The service wants a server that takes writes, and it was not given one. */
async function sayNotWritable(url: string, error: unknown, say: Say): Promise<void> {
  if (parseDatabaseUrl(url).servers.length > 1) {
    say('failed', causeText(error), 'name the primary too, or promote one of them');
    return;
  }
  const db = open(url.replace(/\btarget_session_attrs=[^&]*/, 'target_session_attrs=any'), { session: 'any' });
  try {
    const { standby } = await examineDatabase(db);
    sayReadOnly(standby, say);
  } catch {
    say('failed', causeText(error), 'see DATABASE_URL');
  } finally {
    await db.destroy();
  }
}

const sayReadOnly = (standby: boolean, say: Say): void =>
  say(
    'failed',
    'it takes no writes',
    standby ? 'this is a standby: name the primary in DATABASE_URL' : 'turn default_transaction_read_only off',
  );

function checkSessions(facts: DatabaseFacts, { DATABASE_POOL, WORKERS }: Config, say: Say): void {
  const { version, standby, readOnly, takesSettings, maxSessions, maxSessionsOf, roundTripMs } = facts;
  const wanted = Math.max(DATABASE_POOL, FEWEST_CONNECTIONS) * WORKERS + LISTENING;
  say('ok', `Postgres ${version}, ${roundTripMs} ms for a question`);
  if (Number.parseInt(version, 10) < 12) {
    say('failed', `Postgres ${version} is too old`, 'it wants 12 or later');
  }
  if (readOnly) {
    sayReadOnly(standby, say);
  }
  if (!takesSettings) {
    say('failed', UNSET, 'add ?prepare=false to DATABASE_URL');
  }
  if (wanted > maxSessions) {
    say(
      'warning',
      `this instance may open ${wanted} connections (WORKERS x DATABASE_POOL, and one that listens), and there are ${maxSessions} (${maxSessionsOf})`,
      `lower DATABASE_POOL, or raise the ${maxSessionsOf}`,
    );
  }
}

/** The connection of an instance that hears of other writers. */
const LISTENING = 1;

const UNSET = 'a pooler in front of the database drops the settings of sessions: prepared statements would fail';

function checkRights({ schema, mayCreate, refusedTables, notOwned }: DatabaseFacts, say: Say): void {
  if (schema === null) {
    say('failed', 'there is no schema of this search_path', 'make one, or name one with options=-csearch_path=...');
  } else if (!mayCreate) {
    say(
      refusedTables.length === 0 ? 'warning' : 'failed',
      `this user may not make tables in schema ${schema}`,
      'run taskwire migrate as one who may; expired events are not removed otherwise',
    );
  }
  if (refusedTables.length > 0) {
    say(
      'failed',
      `this user may not read and write ${refusedTables.join(', ')}`,
      'GRANT SELECT, INSERT, UPDATE, DELETE',
    );
  }
  if (notOwned.length > 0) {
    say(
      'warning',
      `this user is not the owner of ${notOwned.join(', ')}: expired events are not removed`,
      'connect as the owner, or GRANT the owner to this user',
    );
  }
}

async function checkSchema(db: Knex, schema: SchemaFacts, { CAPTURE }: Config, say: Say): Promise<void> {
  const { pending, newer, missing, taken } = schema;
  if (newer.length > 0) {
    const steps = newer.join(', ');
    pending.length === 0
      ? say('ok', `the schema is of a newer version (${steps})`, 'it is used as it is; update this instance')
      : say(
          'failed',
          `the schema has steps of another version (${steps}) and lacks ${pending.join(', ')}`,
          'run the newest version',
        );
  } else if (taken.length > 0) {
    say(
      'failed',
      `another program has ${taken.join(', ')} in schema ${schema.schema}`,
      'make a schema for taskwire, and name it in DATABASE_URL with options=-csearch_path%3DNAME',
    );
  }
  if (missing.length > 0) {
    say('failed', `${missing.join(', ')} of the schema is not there`, 'restore it from a backup');
  } else if (pending.length === 0 && newer.length === 0) {
    await checkCapture(db, CAPTURE, say);
  }
}

async function checkCapture(db: Knex, capture: Config['CAPTURE'], say: Say): Promise<void> {
  const { missingFunctions, triggers } = await examineCapture(db);
  const wanted = triggers.filter(({ table }) => capture === 'on' || table !== 'tasks');
  const named = (state: 'off' | 'missing'): string[] => wanted.filter((t) => t.state === state).map(({ name }) => name);
  const missing = [...missingFunctions, ...named('missing')];
  const off = capture === 'on' ? named('off') : [];
  if (missing.length > 0) {
    say(
      'warning',
      `what other programs write is not heard: ${missing.join(', ')} is not there`,
      'start the service, or run taskwire migrate, as the owner of the tables; then run taskwire renew-epochs',
    );
  }
  if (off.length > 0) {
    say(
      'warning',
      `what other programs write is not heard: ${off.join(', ')} turned off`,
      'start the service with CAPTURE=on, or ENABLE TRIGGER; then run taskwire renew-epochs',
    );
  }
}

/** @param streams some of the primary's; undefined when it could not be asked, or has no tables yet */
async function checkReplica(db: Knex, streams: readonly StreamEpoch[] | undefined, say: Say): Promise<void> {
  const { version, standby, takesSettings, roundTripMs } = await examineDatabase(db);
  await tryTransaction(db);
  say('ok', `Postgres ${version}, ${standby ? 'a standby' : 'no standby'}, ${roundTripMs} ms for a question`);
  if (!takesSettings) {
    say('failed', UNSET, 'add ?prepare=false to DATABASE_READ_URL');
  }
  if (streams === undefined) {
    return;
  }
  const { missing, refused, related } = await examineReads(db, streams);
  if (missing.length > 0) {
    say('failed', `there is no ${missing.join(', ')} here`, 'name the database and the search_path of DATABASE_URL');
  } else if (refused.length > 0) {
    say('failed', `this user may not read ${refused.join(', ')}`, 'GRANT SELECT');
  } else if (!related) {
    say(
      'failed',
      'it has none of the streams of DATABASE_URL, so it is no replica of that',
      'name a replica of it, or none',
    );
  }
}

function clockOf({ clockAheadMs }: DatabaseFacts): Finding {
  const off = Math.abs(clockAheadMs) > MAX_CLOCK_MS;
  const message = `the clock of Postgres is ${Math.abs(clockAheadMs)} ms ${clockAheadMs < 0 ? 'behind' : 'ahead'}`;
  return { check: 'clock', status: off ? 'warning' : 'ok', message, hint: off ? 'run NTP on both' : undefined };
}

/** The embedded database is a folder of this machine. */
function checkFolder(folder: string): Finding {
  const path = resolve(folder);
  try {
    examineFolder(path);
    return { check: 'postgres', status: 'ok', message: `embedded database in ${path}, for one instance` };
  } catch (error) {
    return { check: 'postgres', status: 'failed', message: (error as Error).message, hint: 'see DATA_DIR' };
  }
}
