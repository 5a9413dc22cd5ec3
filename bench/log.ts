/**
 * What a large event log costs: writing to it, reading from it, closing and dropping a table of it, against deleting rows.
 *
 *     node dist/bench/log.js [--events 20000000]
 */
import { parseArgs } from 'node:util';
import { connectDatabase } from '../src/database/connect-database.js';
import { parseRoom } from '../src/protocol/rooms.js';
import { EventLog } from '../src/repository/event-log.js';
import { endOnSignals } from '../test/support/end-on-signals.js';
import { closeTables } from '../test/support/event-tables.js';
import { Plans, sentBy } from '../test/support/plans.js';
import { startPostgres } from '../test/support/postgres.js';
import { quantile } from './lib/stats.js';

const USERS = 1_000;
const JOBS_PER_USER = 10;
const TASKS_PER_USER = 1_000;
/** Rows of one statement that fills the log. */
const FILL = 500_000;
/** Events that are written one by one and timed. */
const TIMED = 2_000;
const DELETED_AT_ONCE = 1_000;

const { values } = parseArgs({ options: { events: { type: 'string', default: '20000000' } } });
const half = Number(values.events) / 2;
/** Events of each user in a table. */
const share = half / USERS;

endOnSignals();
const postgres = await startPostgres({
  fsync: 'off',
  full_page_writes: 'off',
  shared_buffers: '512MB',
  max_wal_size: '4GB',
  autovacuum: 'off',
});
const url = await postgres.createDatabase();
const db = connectDatabase({ url, pool: 2, statementMs: 3_600_000 });
const plans = await Plans.connect(url);
const log = new EventLog(db);
let alone = 0;
try {
  await db.raw(`INSERT INTO users SELECT 'u' || n FROM generate_series(0, ${USERS - 1}) n`);
  await write('into an empty log');
  await timed(`${half} events are written`, () => fill(0));
  await write(`into a log of ${half}`);
  await timed('the table that is written to is closed', () => closeTables(db));
  await timed(`${half} more are written`, () => fill(half));
  await write(`into a log of ${2 * half}`);
  await db.raw('ANALYZE');
  await read('two tables');
  await closeTables(db);
  await sizes();
  const { rows } = await db.raw(`SELECT id FROM event_tables WHERE closed_at IS NOT NULL ORDER BY id`);
  const [first, second] = rows.map(({ id }: { id: number }) => `task_events_${id}`);
  await timed(`a table of ${half} is dropped`, () => db.raw(`DROP TABLE ${first}`));
  await timed(`${half / 2} of ${half} events are deleted`, () => deleteOlderHalf(second));
  await sizes();
  await read('after deleting');
  await timed('vacuum', () => db.raw(`VACUUM ${second}`));
  await sizes();
  await read('after vacuum');
  await timed('a counter is raised a million times', () =>
    db.raw(`DO $$ BEGIN
      FOR i IN 1..1000000 LOOP UPDATE event_streams SET seq = seq + 1 WHERE user_id = 'u7'; COMMIT; END LOOP;
    END $$`),
  );
} finally {
  await plans.end();
  await db.destroy();
  await postgres.stop();
}

async function timed(what: string, work: () => Promise<unknown>): Promise<void> {
  const start = performance.now();
  await work();
  console.log(`${what}: ${((performance.now() - start) / 1_000).toFixed(2)} s`);
}

/** Events of all users in turn, as they come when all are active. */
async function fill(from: number): Promise<void> {
  for (let first = from; first < from + half; first += FILL) {
    await db.raw(
      `INSERT INTO task_events (user_id, seq, job_id, task_id, type, changes, created_at)
       SELECT 'u' || u, turn + 1, u * ${JOBS_PER_USER} + turn % ${JOBS_PER_USER}, u * ${TASKS_PER_USER} + turn % ${TASKS_PER_USER},
         'TASK_UPDATED', jsonb_build_object('proof_of_task', repeat('x', 140), 'execution_tx_hash', md5(n::text)), now()
       FROM generate_series(${first}::bigint, ${Math.min(first + FILL, from + half) - 1}::bigint) n,
         LATERAL (SELECT n % ${USERS} AS u, n / ${USERS} AS turn) o`,
    );
  }
  await db.raw(`UPDATE event_streams SET seq = ${(from + half) / USERS}`);
}

async function write(where: string): Promise<void> {
  const times = new Float64Array(TIMED);
  for (let count = 0; count < TIMED; count += 1) {
    alone += 1;
    const start = performance.now();
    await db.raw(
      `INSERT INTO task_events (user_id, seq, job_id, task_id, type, changes, created_at)
       VALUES ('alone', ?, 1, 1, 'TASK_UPDATED', '{}', now())`,
      [alone],
    );
    times[count] = performance.now() - start;
  }
  console.log(`one event ${where}: p50 ${quantile(times.sort(), 0.5).toFixed(3)} ms`);
}

/** What replays of a hundred events read, from the last position that both tables are needed for. */
async function read(when: string): Promise<void> {
  for (const room of ['user:u5', `job:${5 * JOBS_PER_USER + 3}`, `task:${5 * TASKS_PER_USER + 7}`]) {
    const cursor = { ...parseRoom(room), after: share - 50 };
    const [sent] = await sentBy(db, () => log.read({ userId: 'u5', rooms: [cursor], limit: 100 }));
    const { rows, pages } = await plans.unprepared(sent!);
    console.log(`a replay of ${room}, ${when}: ${rows} rows, ${pages} pages`);
  }
}

async function deleteOlderHalf(table: string): Promise<void> {
  const end = share + share / 2;
  for (let user = 0; user < USERS; user += 1) {
    for (let from = share; from < end; from += DELETED_AT_ONCE) {
      await db.raw(`DELETE FROM ${table} WHERE user_id = ? AND seq > ? AND seq <= ?`, [
        `u${user}`,
        from,
        Math.min(from + DELETED_AT_ONCE, end),
      ]);
    }
  }
}

async function sizes(): Promise<void> {
  const { rows } = await db.raw(
    `SELECT relname AS name, pg_relation_size(oid) >> 20 AS mb, pg_indexes_size(oid) >> 20 AS indexes
     FROM pg_class WHERE relname LIKE 'task_events%' AND relkind = 'r' ORDER BY relname`,
  );
  for (const { name, mb, indexes } of rows) {
    console.log(`${name}: ${mb} MB, indexes ${indexes} MB`);
  }
}
