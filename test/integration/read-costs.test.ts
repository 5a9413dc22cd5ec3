import { expect } from 'chai';
import type { Knex } from 'knex';
import { connectDatabase } from '../../src/database/connect-database.js';
import { parseRoom } from '../../src/protocol/rooms.js';
import { ApiKeyRepository } from '../../src/repository/api-key-repository.js';
import { EventHistory, type HistoryQuery } from '../../src/repository/event-history.js';
import { EventLog } from '../../src/repository/event-log.js';
import { EventRetention } from '../../src/repository/event-retention.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import type { RoomCursor } from '../../src/repository/log.js';
import { TaskReader } from '../../src/repository/task-reader.js';
import { cleanWriteKeys, keptWrites } from '../../src/repository/write-keys.js';
import { closeTables } from '../support/event-tables.js';
import { type Cost, Plans, type Sent, sentBy } from '../support/plans.js';
import { POSTGRES_PROGRAMS, type PostgresServer, startPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';

/** Users, each with two jobs. */
const USERS = 3;
/** Tasks of a job, and events of a task, when the tables are small; the tables grow a hundredfold. */
const TASKS = 60;
const GROWTH = 100;
/** Looks for old ones, of which there are none: it may end sooner in a large table than in a small one. */
const CLEANING = 'the removal of old keys of writes';
/** A look whether parts of the log have expired: its turn, the table that is written to, the parts, and the turn's end. */
const TRIMMING = 'a trim of the log';
const TRIM_STATEMENTS = 4;
/** What the tree of an index may be deeper after that, for each time that a statement looks into one. */
const DEEPER = 3;

/** User `u1` owns jobs 10 and 11, and so on. Ids of tasks rise over all jobs in turn, and so do the events of a user. */
async function grow(db: Knex, from: number, to: number): Promise<void> {
  await db.transaction(async (transaction) => {
    // The events are made here.
    await transaction.raw(`SET LOCAL taskwire.capture = 'off'`);
    await transaction.raw(
      `INSERT INTO tasks (task_id, job_id, user_id, task_definition_id, is_imua, task_status, created_at)
     SELECT n, u * 10 + n % 2, 'u' || u, 1, false, 'pending', now()
     FROM generate_series(?::bigint, ?::bigint) n, LATERAL (SELECT 1 + n / 2 % ? AS u) o`,
      [from, to - 1, USERS],
    );
    await transaction.raw(
      `INSERT INTO task_events (user_id, seq, job_id, task_id, type, changes, created_at)
     SELECT user_id, row_number() OVER (PARTITION BY user_id ORDER BY task_id) + s.seq, job_id, task_id, 'TASK_CREATED',
       '{"is_imua": false}', now()
     FROM tasks JOIN event_streams s USING (user_id) WHERE task_id >= ?`,
      [from],
    );
    await transaction.raw(
      `INSERT INTO write_keys (key, fingerprint, task_id, job_id, user_id, seq, epoch)
     SELECT 'key ' || n, 'f', n, 10, 'u1', n, 'e' FROM generate_series(?::bigint, ?::bigint) n`,
      [from, to - 1],
    );
    await transaction.raw(
      `INSERT INTO api_keys (key_id, key_hash, prefix, owner, role, rate_limit)
     SELECT 'id ' || n, 'hash ' || n, 'tw_', 'u1', 'user', 600 FROM generate_series(?::bigint, ?::bigint) n`,
      [from, to - 1],
    );
    await transaction.raw(
      `UPDATE event_streams s SET seq = (SELECT max(seq) FROM task_events e WHERE e.user_id = s.user_id)`,
    );
  });
}

describeWith(POSTGRES_PROGRAMS, 'reads', function () {
  this.timeout(120_000);
  let server: PostgresServer;

  before(async () => {
    // Statistics are what the test makes them.
    server = await startPostgres({ autovacuum: 'off' });
  });
  after(() => server?.stop());

  const room = (name: string, after: number): RoomCursor => ({ ...parseRoom(name), after });

  /** Everything that is read for clients, each of something that does not grow. */
  function reads(db: Knex): Record<string, () => Promise<unknown>> {
    const [log, history, tasks, jobs, keys] = [
      new EventLog(db),
      new EventHistory(db),
      new TaskReader(db),
      new JobRepository(db),
      new ApiKeyRepository(db),
    ];
    const happened = (name: string, query: Partial<HistoryQuery>) =>
      history.page({ userId: 'u1', room: parseRoom(name), limit: 10, ...query });
    const replay = (...rooms: RoomCursor[]) => log.read({ userId: 'u1', rooms, limit: 10 });
    return {
      'a task': () => tasks.getPositionedTask(3),
      'the first page of a job': () => tasks.getTaskPage(parseRoom('job:11'), { after: 0, limit: 1, bytes: 4_194_304 }),
      'a page of a job': () => tasks.getTaskPage(parseRoom('job:11'), { after: 20, limit: 10, bytes: 4_194_304 }),
      'a page of a user': () => tasks.getTaskPage(parseRoom('user:u1'), { after: 20, limit: 10, bytes: 4_194_304 }),
      'a page of the last user': () =>
        tasks.getTaskPage(parseRoom('user:u3'), { after: 0, limit: 10, bytes: 4_194_304 }),
      'a snapshot of a job': () => log.snapshot(parseRoom('job:10'), 10),
      'a snapshot of a user': () => log.snapshot(parseRoom('user:u2'), 10),
      'a snapshot of a task': () => log.snapshot(parseRoom('task:9'), 10),
      'the owners of rooms': () => log.ownersOf(['job:10', 'task:9', 'user:u2', 'job:99'].map(parseRoom)),
      'the owners of jobs': () => tasks.ownersOfJobs(['10', '11', '99']),
      'the owners of tasks': () => tasks.ownersOfTasks(['1', '2', '999999']),
      'the heads of streams': () => log.heads(['u1', 'u2', 'nobody']),
      'the state of a stream': () => log.state('u1'),
      'a replay of a user': () => replay(room('user:u1', 5)),
      'a replay of a job': () => replay(room('job:11', 5)),
      'a replay of a task': () => replay(room('task:6', 0)),
      'a job': () => jobs.getPositionedJob('11'),
      'a page of the jobs of a user': () => jobs.listOfUser('u1', { limit: 1 }),
      'a page of all jobs': () => jobs.list({ after: '10', limit: 1 }),
      'the history of a user': () => happened('user:u1', { since: 5 }),
      'the history of a job': () => happened('job:11', {}),
      'the history of a task': () => happened('task:6', {}),
      'some types of the history of a task': () => happened('task:6', { types: ['TASK_CREATED'] }),
      'writes that were made under a key': () => keptWrites(db, ['key 7', 'no such key']),
      'an API key': () => keys.findByHash('hash 7'),
      'whether API keys are active': () => keys.active(['id 7', 'no such id']),
      [CLEANING]: () => cleanWriteKeys(db),
      [TRIMMING]: () => new EventRetention(db).trim(24, 0),
      'a replay of many rooms': () =>
        replay(room('job:10', 3), room('job:11', 5), room('task:6', 0), room('task:7', 9)),
    };
  }

  /** What each read costs, prepared and not. */
  async function costs(plans: Plans, sent: ReadonlyMap<string, Sent>): Promise<Map<string, Cost>> {
    const found = new Map<string, Cost>();
    for (const [name, statement] of sent) {
      found.set(`${name}, planned for its values`, await plans.unprepared(statement));
      found.set(`${name}, prepared`, await plans.prepared(statement));
    }
    return found;
  }

  for (const statistics of ['missing', 'stale', 'fresh']) {
    it(`cost what they return, in a small and in a hundred times larger job, with ${statistics} statistics`, async () => {
      const url = await server.createDatabase();
      const db = connectDatabase({ url, pool: 2 });
      const plans = await Plans.connect(url);
      try {
        for (let user = 1; user <= USERS; user += 1) {
          await db.raw('INSERT INTO users VALUES (?)', [`u${user}`]);
          await db.raw('INSERT INTO jobs VALUES (?, ?), (?, ?)', [user * 10, `u${user}`, user * 10 + 1, `u${user}`]);
        }
        const size = USERS * 2 * TASKS;
        await grow(db, 1, size / 2);
        // Older events are in a part of the log that was closed.
        await closeTables(db);
        await grow(db, size / 2, size);
        const sent = new Map<string, Sent>();
        for (const [name, read] of Object.entries(reads(db))) {
          const statements = await sentBy(db, read);
          expect(statements, name).to.have.length(name === TRIMMING ? TRIM_STATEMENTS : 1);
          for (const [place, statement] of statements.entries()) {
            sent.set(place === 0 ? name : `${name}, statement ${place + 1}`, statement);
          }
        }
        if (statistics !== 'missing') {
          await db.raw('ANALYZE');
        }
        const small = await costs(plans, sent);
        await grow(db, size, size * GROWTH);
        await db.raw(`INSERT INTO jobs SELECT 1000 + n, 'u' || 1 + n % ? FROM generate_series(1, ?) n`, [
          USERS,
          USERS * GROWTH,
        ]);
        if (statistics === 'fresh') {
          await db.raw('ANALYZE');
        }
        const large = await costs(plans, sent);
        for (const [name, before] of small) {
          const after = large.get(name)!;
          const rows = expect(after.rows, `rows of ${name}`).to;
          if (name.startsWith(CLEANING)) {
            rows.be.at.most(before.rows);
          } else {
            rows.equal(before.rows);
          }
          expect(after.pages, `pages of ${name}`).to.be.at.most(before.pages + DEEPER * (before.rows + 1));
        }
      } finally {
        await plans.end();
        await db.destroy();
      }
    });
  }
});
