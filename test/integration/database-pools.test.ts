import { expect } from 'chai';
import pg from 'pg';
import WebSocket from 'ws';
import { connectDatabase } from '../../src/database/connect-database.js';
import { ApiKeyRepository } from '../../src/repository/api-key-repository.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { eventually } from '../support/eventually.js';
import { POSTGRES_PROGRAMS, type PostgresServer, STANDBY_PROGRAMS, startPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { InProcessServer } from '../support/task-server.js';

/** Many more than a worker has connections for writes. */
const LOCKED_USERS = 30;

interface World {
  readonly service: InProcessServer;
  readonly databaseUrl: string;
  /** Key and task of each user. */
  readonly users: Readonly<Record<'alice' | 'mallory', { readonly key: string; readonly taskId: number }>>;
}

/** @param serviceUrl the database as the service connects to it */
async function worldOn(
  databaseUrl: string,
  environment: Record<string, string> = {},
  serviceUrl = databaseUrl,
): Promise<World> {
  const db = connectDatabase({ url: databaseUrl, pool: 2 });
  try {
    const make = async (owner: string, job_id: string) => {
      await new JobRepository(db).create({ job_id, user_id: owner });
      const { task_id: taskId } = await new TaskRepository(db, { publish() {} }).createTaskData({
        job_id,
        task_definition_id: 1,
        is_imua: false,
      });
      const { key } = await new ApiKeyRepository(db).create({ owner, rate_limit: 1_000_000 });
      return { key, taskId };
    };
    const users = { alice: await make('alice', '1'), mallory: await make('mallory', '2') };
    const service = new InProcessServer(serviceUrl, environment);
    await service.start();
    return { service, databaseUrl, users };
  } finally {
    await db.destroy();
  }
}

const call = (
  world: World,
  who: 'alice' | 'mallory',
  method: string,
  path: string,
  body?: unknown,
): Promise<Response> =>
  fetch(`${world.service.url}${path}`, {
    method,
    headers: { 'x-api-key': world.users[who].key, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });

/** @returns the first snapshot that a new connection to a job's room is sent */
async function snapshotOf(world: World, who: 'alice' | 'mallory', room: string): Promise<{ tasks: unknown[] }> {
  const url = `${world.service.url.replace('http', 'ws')}/api/ws/tasks?api_key=${world.users[who].key}`;
  const socket = new WebSocket(url);
  try {
    return await new Promise((resolve, reject) => {
      socket.on('open', () => socket.send(JSON.stringify({ type: 'SUBSCRIBE', data: { room } })));
      socket.on('error', reject);
      socket.on('message', (text) => {
        const { type, data } = JSON.parse(String(text)) as { type: string; data: { tasks: unknown[] } };
        if (type === 'JOB_TASKS_SNAPSHOT') {
          resolve(data);
        } else if (type === 'ERROR') {
          reject(new Error(String(text)));
        }
      });
    });
  } finally {
    socket.terminate();
  }
}

describeWith(POSTGRES_PROGRAMS, 'connections to the database', function () {
  this.timeout(60_000);
  let server: PostgresServer;
  let world: World;

  before(async () => {
    server = await startPostgres();
    world = await worldOn(await server.createDatabase());
  });
  after(async () => {
    await world?.service.stop();
    await server?.stop();
  });

  it('are left for others while a row of one user stays locked', async () => {
    const { taskId } = world.users.mallory;
    const stranger = new pg.Client({ connectionString: world.databaseUrl });
    await stranger.connect();
    await stranger.query('BEGIN');
    await stranger.query('SELECT FROM tasks WHERE task_id = $1 FOR UPDATE', [taskId]);
    const waiting = Array.from({ length: 260 }, (_, fee) =>
      call(world, 'mallory', 'PUT', `/api/tasks/${taskId}/fee`, { fee }),
    );
    // Whoever does not fit into the stream's queue is told at once, and when to come back.
    const refused = await Promise.any(
      waiting.map(async (answer) => {
        const response = await answer;
        return { status: response.status, retry: response.headers.get('retry-after'), body: await response.json() };
      }),
    );
    expect(refused).to.deep.include({ status: 503, retry: '1' });
    expect(refused.body).to.have.nested.property('error.code', 'STREAM_BUSY');
    // The row is locked all the while: what follows is answered beside what waits.
    const { taskId: own } = world.users.alice;
    for (let fee = 1; fee <= 10; fee += 1) {
      expect((await call(world, 'alice', 'PUT', `/api/tasks/${own}/fee`, { fee })).status).to.equal(200);
      expect((await call(world, 'alice', 'GET', `/api/tasks/${own}`)).status).to.equal(200);
    }
    expect((await snapshotOf(world, 'alice', 'job:1')).tasks).to.have.length(1);
    expect((await snapshotOf(world, 'mallory', 'job:2')).tasks).to.have.length(1);
    const health = await (await fetch(`${world.service.url}/api/ws/health`)).json();
    expect(health).to.nested.include({ status: 'healthy', 'components.database': 'up' });
    await stranger.query('ROLLBACK');
    await stranger.end();
    const statuses = (await Promise.all(waiting)).map(({ status }) => status);
    expect(new Set(statuses)).to.deep.equal(new Set([200, 503]));
  });

  it('are left for others while the rows of many users stay locked', async () => {
    const db = connectDatabase({ url: world.databaseUrl, pool: 2 });
    const stranger = new pg.Client({ connectionString: world.databaseUrl });
    try {
      const { key } = await new ApiKeyRepository(db).create({ owner: 'op', role: 'service', rate_limit: 1_000_000 });
      const users = Array.from({ length: LOCKED_USERS }, (_, n) => `locked_${n}`);
      const ids: number[] = [];
      for (const [n, user_id] of users.entries()) {
        await new JobRepository(db).create({ job_id: String(1_000 + n), user_id });
        const task = { job_id: String(1_000 + n), task_definition_id: 1 };
        ids.push((await new TaskRepository(db).createTaskData(task)).task_id);
      }
      await stranger.connect();
      await stranger.query('BEGIN');
      await stranger.query('SELECT FROM event_streams WHERE user_id = ANY ($1) FOR UPDATE', [users]);
      const waiting = [...ids, ...ids, ...ids].map((id) =>
        fetch(`${world.service.url}/api/tasks/${id}/fee`, {
          method: 'PUT',
          headers: { 'x-api-key': key, 'content-type': 'application/json' },
          body: '{"fee":1}',
        }),
      );
      // None of them can be written before the end, and there are more than connections.
      const { taskId: own } = world.users.alice;
      for (let fee = 1; fee <= 20; fee += 1) {
        expect((await call(world, 'alice', 'PUT', `/api/tasks/${own}/fee`, { fee })).status).to.equal(200);
      }
      await stranger.query('ROLLBACK');
      const statuses = new Set((await Promise.all(waiting)).map(({ status }) => status));
      expect([...statuses].filter((status) => status !== 200 && status !== 503)).to.deep.equal([]);
      expect((await call(world, 'alice', 'PUT', `/api/tasks/${own}/fee`, { fee: 0 })).status).to.equal(200);
    } finally {
      await stranger.end();
      await db.destroy();
    }
  });
});

describeWith(POSTGRES_PROGRAMS, 'a database that is set up in another way while it is used', function () {
  this.timeout(60_000);
  let postgres: PostgresServer;
  let world: World;

  before(async () => {
    postgres = await startPostgres();
    await postgres.admin('CREATE ROLE taskwire LOGIN');
    const url = await postgres.createDatabase();
    await adminOf(url, 'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO taskwire');
    await adminOf(url, 'GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO taskwire');
    world = await worldOn(url, {}, url.replace('postgres@', 'taskwire@'));
  });
  after(async () => {
    await world?.service.stop();
    await postgres?.stop();
  });

  const adminOf = async (connectionString: string, statement: string): Promise<void> => {
    const client = new pg.Client({ connectionString });
    await client.connect();
    await client.query(statement);
    await client.end();
  };
  const write = (fee: number): Promise<Response> =>
    call(world, 'alice', 'PUT', `/api/tasks/${world.users.alice.taskId}/fee`, { fee });
  const health = async (): Promise<unknown> => (await fetch(`${world.service.url}/api/ws/health`)).json();
  const refused = async (lost: string): Promise<void> => {
    const answer = await write(1);
    expect(answer.status).to.equal(503);
    expect(await answer.json()).to.have.nested.property('error.code', 'DATABASE_UNAVAILABLE');
    const report = await health();
    expect(report).to.nested.include({ status: 'degraded', 'components.database': 'failing' });
    expect(report).to.have.property('lost').that.includes(lost);
  };
  const works = async (): Promise<void> => {
    await eventually(async () => expect((await write(2)).status).to.equal(200));
    await eventually(async () => expect(await health()).to.include({ status: 'healthy' }), { timeoutMs: 20_000 });
  };

  it('says that writes fail when a right is taken, and goes on when it is given back', async () => {
    await adminOf(world.databaseUrl, 'REVOKE INSERT ON task_events FROM taskwire');
    await refused('writes fail');
    await adminOf(world.databaseUrl, 'GRANT INSERT ON task_events TO taskwire');
    await works();
  });

  it('says that writes fail when they cannot connect, while other connections answer', async () => {
    await postgres.admin('ALTER ROLE taskwire CONNECTION LIMIT 1');
    await postgres.admin(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'taskwire writes'`,
    );
    await eventually(() => refused('writes fail'));
    await postgres.admin('ALTER ROLE taskwire CONNECTION LIMIT -1');
    await works();
  });

  it('finds its tables again when the search path is put right', async () => {
    await postgres.admin(`ALTER ROLE taskwire SET search_path = pg_catalog`);
    const cut = `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'taskwire'`;
    await postgres.admin(cut);
    await eventually(() => refused('writes fail'));
    await postgres.admin('ALTER ROLE taskwire RESET search_path');
    await eventually(works, { timeoutMs: 20_000 });
  });
});

describeWith(STANDBY_PROGRAMS, 'reads from a replica', function () {
  this.timeout(120_000);
  let primary: PostgresServer;
  let standby: PostgresServer;
  let world: World;

  before(async () => {
    primary = await startPostgres();
    const url = await primary.createDatabase();
    standby = await primary.startStandby();
    world = await worldOn(url, { DATABASE_READ_URL: url.replace(`:${primary.port}/`, `:${standby.port}/`) });
  });
  after(async () => {
    await world?.service.stop();
    await standby?.stop();
    await primary?.stop();
  });

  const write = async (fee: number): Promise<void> => {
    const answer = await call(world, 'alice', 'PUT', `/api/tasks/${world.users.alice.taskId}/fee`, { fee });
    expect(answer.status).to.equal(200);
  };
  const snapshotFee = async (): Promise<unknown> =>
    ((await snapshotOf(world, 'alice', 'job:1')).tasks[0] as { task_opx_cost: number }).task_opx_cost;
  const statementsOnReplica = async (): Promise<number> => {
    const { rows } = await standby.admin(
      `SELECT count(*)::int AS n FROM pg_stat_activity WHERE application_name = 'taskwire replica' AND query ~ 'event_streams'`,
    );
    return rows[0].n;
  };

  it('are used, and never show less than the primary has', async () => {
    await write(1);
    expect(await snapshotFee()).to.equal(1);
    await eventually(async () => expect(await statementsOnReplica()).to.be.greaterThan(0));
    // A replica that stands still shows by its position that it is behind.
    await standby.admin('SELECT pg_wal_replay_pause()');
    await write(2);
    expect(await snapshotFee()).to.equal(2);
    await standby.admin('SELECT pg_wal_replay_resume()');
    await standby.halt('immediate');
    await write(3);
    expect(await snapshotFee()).to.equal(3);
    await standby.start();
  });
});
