import { expect } from 'chai';
import pg from 'pg';
import { connectDatabase } from '../../src/database/connect-database.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { migrate } from '../../src/schema/migrate.js';
import { Account } from '../support/account.js';
import { eventually } from '../support/eventually.js';
import { Instance } from '../support/instance.js';
import { POSTGRES_PROGRAMS, type PostgresServer, startPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { REDIS_PROGRAMS, type RedisServer, startRedis } from '../support/redis.js';
import { Scene } from '../support/scene.js';
import { Subscriber } from '../support/subscriber.js';

describeWith([...POSTGRES_PROGRAMS, ...REDIS_PROGRAMS], 'changes by other programs', () => {
  let postgres: PostgresServer;
  let redis: RedisServer;
  let scene: Scene;
  let url: string;
  let stranger: pg.Client;

  before(async function () {
    this.timeout(120_000);
    [postgres, redis] = await Promise.all([startPostgres(), startRedis()]);
    url = await postgres.createDatabase();
    scene = await Scene.make(url, { users: 1, jobsPerUser: 1 });
    stranger = new pg.Client({ connectionString: url });
    await stranger.connect();
  });

  after(async () => {
    await stranger?.end();
    await scene?.close();
    await Promise.all([postgres?.stop(), redis?.stop()]);
  });

  const key = (): string => scene.keys.get('user_1')!;
  const job = (): string => scene.jobs[0]!.jobId;
  const counts = async (instance: Instance): Promise<Record<string, number>> => {
    const response = await fetch(`${instance.url}/api/ws/stats`, { headers: { 'x-api-key': scene.serviceKey } });
    expect(response.status).to.equal(200);
    return ((await response.json()) as { data: { messages: Record<string, number> } }).data.messages;
  };
  const environment = (more: Record<string, string> = {}) => ({
    DATABASE_URL: url,
    REDIS_URL: `redis://127.0.0.1:${redis.port}`,
    ...more,
  });

  it('reach subscribers by the database alone, and are no repairs', async function () {
    this.timeout(120_000);
    // Nobody looks into the log by himself.
    const never = { RECONCILE_IDLE_MS: '3600000' };
    const instance = await Instance.start({ workers: 2, env: environment(never) });
    const subscribers = (['websocket', 'socket.io'] as const).map(
      (wire) => new Subscriber(wire, instance.url, key(), [`job:${job()}`]),
    );
    const tasks = new TaskRepository(scene.db);
    try {
      await eventually(() => expect(subscribers.every(({ live }) => live)).to.equal(true), { timeoutMs: 30_000 });
      const { rows } = await stranger.query(
        `INSERT INTO tasks (job_id, user_id, task_definition_id, is_imua, task_status, created_at)
         SELECT $1, 'user_1', n, false, 'pending', now() FROM generate_series(1, 20) n RETURNING task_id`,
        [job()],
      );
      const ids = rows.map(({ task_id }) => Number(task_id));
      for (let round = 0; round < 10; round += 1) {
        await stranger.query('BEGIN');
        await stranger.query('UPDATE tasks SET task_opx_cost = $1 WHERE task_id = ANY($2)', [round, ids]);
        const joined = tasks.within({ query: (sql, bindings) => stranger.query(sql, [...bindings]) });
        await joined.updateTaskNumberAndStatus(ids[round]!, round, 'processing');
        await stranger.query(round % 3 === 2 ? 'ROLLBACK' : 'COMMIT');
        const response = await fetch(`${instance.url}/api/tasks/${ids[0]}/fee`, {
          method: 'PUT',
          headers: { 'x-api-key': key(), 'content-type': 'application/json' },
          body: JSON.stringify({ fee: 100 + round }),
        });
        expect(response.status).to.equal(200);
        await tasks.updateTaskFee(ids[1]!, 200 + round);
      }
      await stranger.query('DELETE FROM tasks WHERE task_id = ANY($1)', [ids.slice(15)]);
      const account = new Account(scene.db);
      for (const subscriber of subscribers) {
        await account.settle(subscriber);
        await account.compareState(subscriber);
      }
      expect(await counts(instance)).to.include({ repairs: 0, resets: 0 });
      expect((await counts(instance))['captured']).to.be.greaterThan(20 + 7 * 20);
    } finally {
      for (const subscriber of subscribers) {
        subscriber.close();
      }
      await instance.stop();
    }
  });

  it('reach subscribers within a reconcile where nobody may listen', async function () {
    this.timeout(120_000);
    const pooled = new URL(url);
    pooled.searchParams.set('prepare', 'false');
    const instance = await Instance.start({
      workers: 1,
      env: environment({ DATABASE_URL: pooled.href, RECONCILE_IDLE_MS: '3600000' }),
    });
    const subscriber = new Subscriber('websocket', instance.url, key(), [`job:${job()}`]);
    try {
      await eventually(() => expect(subscriber.live).to.equal(true), { timeoutMs: 30_000 });
      await stranger.query(`UPDATE tasks SET task_status = 'looked for' WHERE user_id = 'user_1'`);
      await new Account(scene.db).settle(subscriber);
      expect(await counts(instance)).to.include({ repairs: 0 });
    } finally {
      subscriber.close();
      await instance.stop();
    }
  });

  it('hold up nobody while their transaction is open, and are numbered when it commits', async () => {
    const tasks = new TaskRepository(scene.db);
    const make = async () => (await tasks.createTaskData({ job_id: job(), task_definition_id: 1 })).task_id;
    const [changed, other] = [await make(), await make()];
    await stranger.query('BEGIN');
    await stranger.query(`UPDATE tasks SET task_status = 'open' WHERE task_id = $1`, [changed]);
    await stranger.query(
      `INSERT INTO tasks (job_id, user_id, task_definition_id, is_imua, task_status, created_at)
       VALUES ($1, 'user_1', 1, false, 'open', now())`,
      [job()],
    );
    await stranger.query('DELETE FROM tasks WHERE task_id = $1', [await make()]);
    // Nobody has the counter, nor waits for it.
    await scene.db.raw(`SELECT 1 FROM event_streams WHERE user_id = 'user_1' FOR UPDATE NOWAIT`);
    const { seq } = await tasks.updateTaskFee(other, 1);
    await stranger.query('COMMIT');
    const { rows } = await stranger.query(
      `SELECT type FROM task_events WHERE user_id = 'user_1' AND seq > $1 ORDER BY seq`,
      [seq],
    );
    expect(rows.map(({ type }) => type).sort()).to.deep.equal(['TASK_CREATED', 'TASK_DELETED', 'TASK_STATUS_CHANGED']);
  });

  it('that meet a write of the repository in a deadlock do not keep it from being made', async function () {
    this.timeout(30_000);
    const tasks = new TaskRepository(scene.db);
    const { task_id } = await tasks.createTaskData({ job_id: job(), task_definition_id: 1 });
    await stranger.query('BEGIN');
    // The other one is to look for it first, and to be ended.
    await stranger.query(`SET LOCAL deadlock_timeout = '60s'`);
    await stranger.query(`SELECT 1 FROM event_streams WHERE user_id = 'user_1' FOR UPDATE`);
    const write = tasks.updateTaskFee(task_id, 7);
    await eventually(async () => {
      const { rows } = await scene.db.raw('SELECT count(*)::int AS waiting FROM pg_locks WHERE NOT granted');
      expect(rows[0].waiting).to.equal(1);
    });
    await stranger.query(`UPDATE tasks SET task_status = 'met' WHERE task_id = $1`, [task_id]);
    await stranger.query('COMMIT');
    const { seq } = await write;
    const { rows } = await stranger.query(`SELECT seq::int, type FROM task_events WHERE task_id = $1 ORDER BY seq`, [
      task_id,
    ]);
    expect(rows).to.deep.equal([
      { seq: seq! - 2, type: 'TASK_CREATED' },
      { seq: seq! - 1, type: 'TASK_STATUS_CHANGED' },
      { seq, type: 'TASK_FEE_UPDATED' },
    ]);
  });

  it('are heard of a role that has rights on tasks alone, in a schema beside other tables of the same names', async function () {
    this.timeout(60_000);
    await postgres.admin('CREATE DATABASE shared');
    const shared = postgres.url.replace(/[^/]*$/, 'shared');
    const owner = new pg.Client({ connectionString: shared });
    await owner.connect();
    const other = new pg.Client({ connectionString: shared.replace('postgres@', 'narrow@') });
    const own = new URL(shared);
    own.searchParams.set('options', '-c search_path=taskwire');
    const db = connectDatabase({ url: own.href, pool: 2 });
    try {
      await owner.query('CREATE SCHEMA taskwire');
      await owner.query('CREATE TABLE public.tasks (task_id text); CREATE TABLE public.users (name text)');
      await owner.query('CREATE TABLE public.event_streams (x int); CREATE TABLE public.task_events (x int)');
      await migrate(db);
      await owner.query('CREATE ROLE narrow LOGIN');
      await owner.query('GRANT USAGE ON SCHEMA taskwire TO narrow; GRANT SELECT, UPDATE ON taskwire.tasks TO narrow');
      await new JobRepository(db).create({ job_id: 1, user_id: 'ada' });
      const tasks = new TaskRepository(db);
      const { task_id } = await tasks.createTaskData({ job_id: 1, task_definition_id: 1 });
      await other.connect();
      await other.query(`UPDATE taskwire.tasks SET task_status = 'heard' WHERE task_id = ${task_id}`);
      const { rows } = await db.raw('SELECT type FROM task_events ORDER BY seq');
      expect(rows).to.deep.equal([{ type: 'TASK_CREATED' }, { type: 'TASK_STATUS_CHANGED' }]);
      expect((await owner.query('SELECT * FROM public.tasks')).rows).to.deep.equal([]);
    } finally {
      await Promise.all([db.destroy(), owner.end(), other.end()]);
    }
  });
});
