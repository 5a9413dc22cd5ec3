import { expect } from 'chai';
import type { Knex } from 'knex';
import { connectDatabase } from '../../src/database/connect-database.js';
import { TaskwireError } from '../../src/protocol/errors.js';
import { envelopeText, type TaskEvent } from '../../src/protocol/events.js';
import type { TaskRow } from '../../src/protocol/tasks.js';
import { EventLog } from '../../src/repository/event-log.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import type { TaskUpdate } from '../../src/repository/task-patch.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { migrate } from '../../src/schema/migrate.js';
import { migrationSource } from '../../src/schema/migrations.js';
import { expectChained } from '../contract/repository.suite.js';
import { closeTables, dropExpired, expireTables } from '../support/event-tables.js';
import { eventually } from '../support/eventually.js';
import { POSTGRES_PROGRAMS, type PostgresServer, startPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { Statements } from '../support/statements.js';
import { startTcpProxy } from '../support/tcp-proxy.js';

const WRITERS = 16;
const WRITES = 3_200;
const STREAMS = 4;
const TASKS = 3;

async function codeOf(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => 'ok',
    (error: unknown) => (error instanceof TaskwireError ? error.code : `no TaskwireError: ${error}`),
  );
}

describeWith(POSTGRES_PROGRAMS, 'repositories on a Postgres of their own', () => {
  let server: PostgresServer;
  const open: Knex[] = [];

  const connect = (url: string, pool = 4): Knex => {
    const db = connectDatabase({ url, pool });
    open.push(db);
    return db;
  };

  before(async function () {
    this.timeout(60_000);
    server = await startPostgres();
  });

  afterEach(async () => {
    await Promise.all(open.splice(0).map((db) => db.destroy()));
  });

  after(async function () {
    this.timeout(60_000);
    await server?.stop();
  });

  it('migrates an empty database once, though four processes ask at once', async function () {
    this.timeout(30_000);
    await server.admin('CREATE DATABASE empty');
    const url = server.url.replace(/[^/]*$/, 'empty');
    const results = await Promise.all(Array.from({ length: 4 }, () => migrate(connect(url, 1))));
    expect(results.filter((names) => names.length > 0)).to.have.length(1);
    expect(await new EventLog(connect(url)).heads(['nobody'])).to.deep.equal(new Map());
  });

  it('leaves the migrations table of another tool alone, and takes over its own of before', async function () {
    this.timeout(30_000);
    for (const [name, theirs] of [
      ['rails', 'CREATE TABLE schema_migrations (version text PRIMARY KEY)'],
      ['other_knex', 'CREATE TABLE schema_migrations (id int, name text, batch int, migration_time timestamptz)'],
    ] as const) {
      await server.admin(`CREATE DATABASE ${name}`);
      const db = connect(server.url.replace(/[^/]*$/, name), 1);
      await db.raw(theirs);
      expect(await migrate(db)).to.include('0001_initial');
      expect((await db.raw('SELECT * FROM schema_migrations')).rows).to.deep.equal([]);
      expect(await migrate(db)).to.deep.equal([]);
    }
    await server.admin('CREATE DATABASE earlier');
    const db = connect(server.url.replace(/[^/]*$/, 'earlier'), 1);
    await migrate(db);
    await db.raw('ALTER TABLE taskwire_migrations RENAME TO schema_migrations');
    await db.raw('ALTER TABLE taskwire_migrations_lock RENAME TO schema_migrations_lock');
    expect(await migrate(db)).to.deep.equal([]);
  });

  it('migrates after a process died in the middle', async function () {
    this.timeout(30_000);
    await server.admin('CREATE DATABASE half_way');
    const url = server.url.replace(/[^/]*$/, 'half_way');
    const db = connect(url, 2);
    const victim = await db.transaction();
    const { rows } = await victim.raw('SELECT pg_backend_pid() AS pid');
    await victim.raw('SELECT pg_advisory_xact_lock(8386110886542668389)');
    await victim.raw('CREATE TABLE users (half int)');
    const done = migrate(connect(url, 1));
    await server.admin(`SELECT pg_terminate_backend(${rows[0].pid})`);
    const steps = (await migrationSource.getMigrations([])) as Array<{ name: string }>;
    expect(await done).to.deep.equal(steps.map(({ name }) => name));
    await victim.rollback().catch(() => {
      // Its connection is gone.
    });
  });

  for (const mode of ['refuse', 'blackhole'] as const) {
    it(`makes a batch of one statement, which is written or not as a whole (${mode})`, async function () {
      this.timeout(60_000);
      const url = await server.createDatabase();
      const jobs = new JobRepository(connect(url));
      await jobs.create({ job_id: 1, user_id: 'owner' });
      const log = new EventLog(connect(url));
      const proxy = await startTcpProxy({ port: server.port });
      try {
        const db = connectDatabase({
          url: url.replace(`:${server.port}/`, `:${proxy.port}/`),
          pool: 4,
          statementMs: 500,
        });
        open.push(db);
        const statements = new Statements(db);
        const tasks = new TaskRepository(db, { publish: () => {} });
        const { task_id } = await tasks.createTaskData({ job_id: 1, task_definition_id: 1 });
        const updates = Array.from({ length: 500 }, (_, fee): TaskUpdate => ({ kind: 'fee', task_id, fee }));
        statements.count = 0;
        statements.before = (count) => count === 2 && proxy.setMode(mode);
        const written = await tasks.updateManyTaskData('owner', updates);
        expect(written.map((outcome) => 'seq' in outcome && outcome.seq)).to.deep.equal(updates.map((_, n) => n + 2));
        const outcomes = await tasks.updateManyTaskData('owner', updates);
        expect(statements.count).to.equal(2);
        const codes = new Set(outcomes.map((outcome) => 'code' in outcome && outcome.code));
        expect([...codes]).to.deep.equal(['DATABASE_UNAVAILABLE']);
        expect(await log.state('owner')).to.include({ seq: 501 });

        statements.before = () => {};
        proxy.setMode('pass');
        await eventually(async () => {
          const [outcome] = await tasks.updateManyTaskData('owner', updates.slice(0, 1));
          expect(outcome).to.have.property('seq');
        });
      } finally {
        await proxy.stop();
      }
    });
  }

  it(`keeps ${STREAMS} streams gapless and true under ${WRITERS} writers`, async function () {
    this.timeout(120_000);
    const db = connect(await server.createDatabase(), WRITERS);
    const published: TaskEvent[] = [];
    const tasks = new TaskRepository(db, { publish: (events) => published.push(...events) });
    const jobs = new JobRepository(db);
    const log = new EventLog(db);
    const users = Array.from({ length: STREAMS }, (_, n) => `user_${n}`);
    const ids: number[] = [];
    for (const [n, user_id] of users.entries()) {
      await jobs.create({ job_id: n, user_id });
      for (let made = 0; made < TASKS; made += 1) {
        ids.push((await tasks.createTaskData({ job_id: n, task_definition_id: 1 })).task_id);
      }
    }
    let next = 0;
    const writer = async (): Promise<void> => {
      for (;;) {
        const n = next++;
        if (n >= WRITES) {
          return;
        }
        const id = ids[(n * 7) % ids.length]!;
        if (n % 3 === 0) {
          await tasks.updateTaskFee(id, n + 1);
        } else if (n % 3 === 1) {
          await tasks.updateTaskNumberAndStatus(id, n, `status_${n}`);
        } else {
          await tasks.updateTaskExecutionData(id, { proof_of_task: `proof_${n}`, task_performer_id: n });
        }
      }
    };
    await Promise.all(Array.from({ length: WRITERS }, writer));

    let total = 0;
    for (const user of users) {
      const state = (await log.state(user))!;
      const { events } = await log.read({ userId: user, rooms: [{ kind: 'user', id: user, after: 0 }], limit: 10_000 });
      expect(events.map(({ seq }) => seq)).to.deep.equal(Array.from({ length: state.seq }, (_, n) => n + 1));
      expectChained(events);
      expect(events.map(({ timestamp }) => timestamp)).to.deep.equal(events.map(({ timestamp }) => timestamp).sort());
      const live = published.filter(({ userId }) => userId === user).sort((a, b) => a.seq - b.seq);
      expect(live.map(envelopeText)).to.deep.equal(events.map(envelopeText));
      await expectLastState(tasks, events);
      total += events.length;
    }
    expect(total).to.equal(WRITES + STREAMS * TASKS);
  });

  /** What the events of a task add up to is what its row says. */
  async function expectLastState(tasks: TaskRepository, events: readonly TaskEvent[]): Promise<void> {
    const derived = new Map<number, Record<string, unknown>>();
    for (const { taskId, changes } of events) {
      derived.set(taskId, { ...derived.get(taskId), ...JSON.parse(changes) });
    }
    for (const [taskId, { old_fee, new_fee, old_status, new_status, ...state }] of derived) {
      const row = (await tasks.getTask(taskId))! as TaskRow & Record<string, unknown>;
      expect(row).to.deep.include(state);
    }
  }

  it('needs no setting of the server, the database or the role', async function () {
    this.timeout(60_000);
    const url = await server.createDatabase();
    const name = new URL(url).pathname.slice(1);
    const odd: Readonly<Record<string, string>> = {
      default_transaction_isolation: 'serializable',
      default_transaction_deferrable: 'on',
      synchronous_commit: 'off',
      extra_float_digits: '-15',
      DateStyle: 'SQL, DMY',
      TimeZone: 'Asia/Kolkata',
      IntervalStyle: 'sql_standard',
      bytea_output: 'escape',
      standard_conforming_strings: 'off',
      transform_null_equals: 'on',
      array_nulls: 'off',
      exit_on_error: 'on',
      enable_indexscan: 'off',
      enable_indexonlyscan: 'off',
      enable_nestloop: 'off',
      plan_cache_mode: 'force_custom_plan',
      quote_all_identifiers: 'on',
      row_security: 'off',
    };
    for (const [setting, value] of Object.entries(odd)) {
      await server.admin(`ALTER DATABASE ${name} SET ${setting} = '${value}'`);
    }
    const db = connect(url, 8);
    const published: TaskEvent[] = [];
    const tasks = new TaskRepository(db, { publish: (events) => published.push(...events) });
    const log = new EventLog(db);
    await new JobRepository(db).create({ job_id: 1, user_id: 'someone' });
    const { task_id } = await tasks.createTaskData({ job_id: 1, task_definition_id: 1 });
    const input = {
      execution_timestamp: '2024-01-02T03:04:05.678Z',
      proof_of_task: "it's \\n \\ ü",
      converted_arguments: [null, 'NULL', 0.1],
    };
    await tasks.updateTaskExecutionData(task_id, input);
    await Promise.all(Array.from({ length: 40 }, (_, n) => tasks.updateTaskFee(task_id, n + 0.1234567890123456)));
    await db.raw(`UPDATE tasks SET task_opx_cost = 0.30000000000000004, tx_url = '' WHERE task_id = ?`, [task_id]);
    const { rows } = await db.raw(`SELECT current_setting('synchronous_commit') AS sync`);
    expect(rows).to.deep.equal([{ sync: 'on' }]);
    const row = (await tasks.getTask(task_id))!;
    expect(row).to.deep.include({ ...input, task_opx_cost: 0.30000000000000004 });
    const rooms = [{ kind: 'user', id: 'someone', after: 0 }] as const;
    const { events } = await log.read({ userId: 'someone', rooms, limit: 100 });
    expect(events).to.have.length(43);
    expectChained(events);
    const live = published.sort((a, b) => a.seq - b.seq);
    expect(events.slice(0, 42).map(envelopeText)).to.deep.equal(live.map(envelopeText));
    await expectLastState(tasks, events);
    const snapshot = await log.snapshot({ kind: 'task', id: String(task_id), name: `task:${task_id}` }, 10);
    expect(JSON.parse(snapshot!.tasks)).to.deep.equal([row]);
  });

  it('leaves no hole when a task goes away while its update waits', async () => {
    const db = connect(await server.createDatabase());
    const tasks = new TaskRepository(db, { publish() {} });
    await new JobRepository(db).create({ job_id: 1, user_id: 'someone' });
    const { task_id } = await tasks.createTaskData({ job_id: 1, task_definition_id: 1 });
    const deleting = await db.transaction();
    await deleting.raw('DELETE FROM tasks WHERE task_id = ?', [task_id]);
    const update = codeOf(tasks.updateTaskFee(task_id, 5));
    await eventually(async () => {
      const { rows } = await db.raw(`SELECT count(*)::int AS waiting FROM pg_locks WHERE NOT granted`);
      expect(rows[0].waiting).to.be.greaterThan(0);
    });
    await deleting.commit();
    expect(await update).to.equal('NOT_FOUND');
    // Of the creation and the deletion.
    expect(await new EventLog(db).state('someone')).to.include({ seq: 2 });
  });

  it('holds up no other write of a stream while one waits for its task', async () => {
    const db = connect(await server.createDatabase());
    const tasks = new TaskRepository(db, { publish() {} });
    await new JobRepository(db).create({ job_id: 1, user_id: 'someone' });
    const { task_id } = await tasks.createTaskData({ job_id: 1, task_definition_id: 1 });
    const holder = await db.transaction();
    await holder.raw('SELECT 1 FROM tasks WHERE task_id = ? FOR UPDATE', [task_id]);
    const update = codeOf(tasks.updateTaskFee(task_id, 5));
    await eventually(async () => {
      const { rows } = await db.raw(`SELECT count(*)::int AS waiting FROM pg_locks WHERE NOT granted`);
      expect(rows[0].waiting).to.be.greaterThan(0);
    });
    // The counter is free: the task comes first, then the counter.
    const counter = await codeOf(db.raw(`SELECT 1 FROM event_streams WHERE user_id = 'someone' FOR UPDATE NOWAIT`));
    await holder.commit();
    expect(counter).to.equal('ok');
    expect(await update).to.equal('ok');
  });

  it('tells once of a write by a transaction that began before the one whose row it found', async () => {
    const db = connect(await server.createDatabase());
    const tasks = new TaskRepository(db, { publish() {} });
    await new JobRepository(db).create({ job_id: 1, user_id: 'someone' });
    const { task_id } = await tasks.createTaskData({ job_id: 1, task_definition_id: 1 });
    await db.transaction(async (trx) => {
      await trx.raw('SELECT txid_current()');
      await tasks.updateTaskFee(task_id, 5);
      await tasks.within(trx).updateTaskFee(task_id, 6);
    });
    expect(await new EventLog(db).state('someone')).to.include({ seq: 3 });
  });

  it('closes and drops parts of the log while writers go on, and no stream has a hole', async function () {
    this.timeout(60_000);
    const db = connect(await server.createDatabase(), 8);
    const log = new EventLog(db);
    const tasks = new TaskRepository(db, { publish() {} });
    const jobs = new JobRepository(db);
    const ids: number[] = [];
    for (let n = 0; n < 5; n += 1) {
      await jobs.create({ job_id: n, user_id: `user_${n}` });
      ids.push((await tasks.createTaskData({ job_id: n, task_definition_id: 1 })).task_id);
    }
    let running = true;
    const written = ids.map(() => 1);
    const writers = ids.map(async (id, n) => {
      while (running) {
        // Half of them are of a program that knows nothing of the log.
        if (n % 2 === 0) {
          await tasks.updateTaskFee(id, written[n]!);
        } else {
          await db.raw('UPDATE tasks SET task_opx_cost = ? WHERE task_id = ?', [written[n]!, id]);
        }
        written[n]! += 1;
      }
    });
    const parts = async (): Promise<number> =>
      (await db.raw(`SELECT count(*)::int AS parts FROM pg_inherits WHERE inhparent = 'task_events'::regclass`)).rows[0]
        .parts;
    for (let closed = 0; closed < 4; closed += 1) {
      // When a lock is not got in time, the next look tries again.
      await eventually(async () => {
        await closeTables(db);
        expect(await parts()).to.be.greaterThan(closed);
      });
    }
    await expireTables(db, 2);
    await eventually(async () => {
      await dropExpired(db);
      expect(await parts()).to.equal(2);
    });
    running = false;
    await Promise.all(writers);
    for (const [n, count] of written.entries()) {
      const user = `user_${n}`;
      const { events, floor, seq } = await log.read({
        userId: user,
        rooms: [{ kind: 'user', id: user, after: 0 }],
        limit: 100_000,
      });
      expect(seq).to.equal(count);
      expect(floor).to.be.greaterThan(0);
      expect(events.map((event) => event.seq)).to.deep.equal(
        Array.from({ length: seq - floor }, (_, k) => floor + k + 1),
      );
    }
  });

  it('says that the database is away, and goes on when it is back', async function () {
    this.timeout(30_000);
    const db = connect(await server.createDatabase());
    const tasks = new TaskRepository(db, { publish() {} });
    const log = new EventLog(db);
    await new JobRepository(db).create({ job_id: 1, user_id: 'someone' });
    const { task_id } = await tasks.createTaskData({ job_id: 1, task_definition_id: 1 });

    // In the middle of a statement, then without a server, then with one that was not told.
    const blocker = await db.transaction();
    await blocker.raw('SELECT 1 FROM event_streams FOR UPDATE');
    const interrupted = codeOf(tasks.updateTaskFee(task_id, 1));
    await eventually(async () => {
      const { rows } = await db.raw(`SELECT count(*)::int AS waiting FROM pg_locks WHERE NOT granted`);
      expect(rows[0].waiting).to.be.greaterThan(0);
    });
    await server.halt('immediate');
    expect(await interrupted).to.equal('DATABASE_UNAVAILABLE');
    expect(await codeOf(tasks.updateTaskFee(task_id, 2))).to.equal('DATABASE_UNAVAILABLE');
    expect(await codeOf(log.heads(['someone']))).to.equal('DATABASE_UNAVAILABLE');
    expect(await codeOf(migrate(db))).to.equal('DATABASE_UNAVAILABLE');
    await server.start();
    await eventually(async () => {
      expect(await codeOf(tasks.updateTaskFee(task_id, 3))).to.equal('ok');
    });
    expect(await log.state('someone')).to.include({ seq: 2 });
    await blocker.rollback().catch(() => {
      // Its connection is gone.
    });
  });

  it('says so too when every connection is busy', async function () {
    this.timeout(30_000);
    const url = await server.createDatabase();
    const db = connect(url, 1);
    const busy = await db.transaction();
    expect(await codeOf(new EventLog(db).heads(['someone']))).to.equal('DATABASE_UNAVAILABLE');
    await busy.rollback();
    expect(await codeOf(new EventLog(db).heads(['someone']))).to.equal('ok');
  });

  it('leaves a connection whose server no longer answers', async function () {
    this.timeout(30_000);
    const db = connectDatabase({ url: await server.createDatabase(), pool: 1, statementMs: 1_000 });
    open.push(db);
    const { rows } = await db.raw('SELECT pg_backend_pid() AS pid');
    const { pid } = rows[0];
    process.kill(pid, 'SIGSTOP');
    try {
      expect(await codeOf(new EventLog(db).heads(['someone']))).to.equal('DATABASE_UNAVAILABLE');
      const after = await db.raw('SELECT pg_backend_pid() AS pid');
      expect(after.rows[0].pid).to.not.equal(pid);
    } finally {
      process.kill(pid, 'SIGCONT');
    }
  });

  it('reads the answer that came while this process was held up, however late', async function () {
    this.timeout(30_000);
    const url = await server.createDatabase();
    const observer = connect(url);
    const db = connectDatabase({ url, pool: 1, statementMs: 2_000 });
    open.push(db);
    const { rows } = await db.raw('SELECT pg_backend_pid() AS pid');
    const answer = db.raw('SELECT pg_backend_pid() AS pid FROM pg_sleep(1.5)').then();
    await eventually(async () => {
      const active = await observer.raw('SELECT state FROM pg_stat_activity WHERE pid = ?', [rows[0].pid]);
      expect(active.rows).to.deep.equal([{ state: 'active' }]);
    });
    // Longer than an answer may take.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 3_200);
    expect((await answer).rows).to.deep.equal(rows);
    expect((await db.raw('SELECT pg_backend_pid() AS pid')).rows).to.deep.equal(rows);
  });

  it('takes a statement that the server cancelled for a database that is too busy', async function () {
    this.timeout(30_000);
    const url = await server.createDatabase();
    const db = connect(url);
    const hasty = connectDatabase({ url, pool: 1, statementMs: 300 });
    open.push(hasty);
    const tasks = new TaskRepository(db, { publish() {} });
    await new JobRepository(db).create({ job_id: 1, user_id: 'someone' });
    const { task_id } = await tasks.createTaskData({ job_id: 1, task_definition_id: 1 });
    const blocker = await db.transaction();
    await blocker.raw('SELECT 1 FROM event_streams FOR UPDATE');
    expect(await codeOf(new TaskRepository(hasty, { publish() {} }).updateTaskFee(task_id, 1))).to.equal(
      'DATABASE_UNAVAILABLE',
    );
    await blocker.rollback();
    expect(await codeOf(tasks.updateTaskFee(task_id, 1))).to.equal('ok');
    expect(await new EventLog(db).state('someone')).to.include({ seq: 2 });
  });
});
