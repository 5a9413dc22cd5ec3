import { expect } from 'chai';
import type { Knex } from 'knex';
import { connectDatabase } from '../../src/database/connect-database.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import type { Snapshot } from '../../src/repository/log.js';
import { ReadableLog } from '../../src/repository/readable-log.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { eventually } from '../support/eventually.js';
import { type PostgresServer, STANDBY_PROGRAMS, startPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';

const JOB = { kind: 'job', id: '1', name: 'job:1' } as const;
const NOBODY = 'postgres://postgres@127.0.0.1:1/nothing';

describeWith(STANDBY_PROGRAMS, 'a read replica', function () {
  this.timeout(120_000);
  let primary: PostgresServer;
  let standby: PostgresServer;
  let url: string;
  let taskId: number;
  let open: Knex[] = [];
  let promoted = false;
  /** What an operator was told of the replica. */
  let told: Array<string | undefined>;

  before(async () => {
    primary = await startPostgres();
    standby = await primary.startStandby();
  });
  beforeEach(async () => {
    url = await primary.createDatabase();
    told = [];
    const db = connect(url);
    await new JobRepository(db).create({ job_id: '1', user_id: 'alice' });
    taskId = (await new TaskRepository(db).createTaskData({ job_id: '1', task_definition_id: 1 })).task_id;
    if (promoted) {
      await standby.follow(primary);
      promoted = false;
    }
    await shows(standby, 1);
  });
  afterEach(async () => {
    await Promise.all(open.map((db) => db.destroy()));
    open = [];
  });
  after(async () => {
    await standby?.stop();
    await primary?.stop();
  });

  function connect(to: string, session: 'any' | 'read-write' = 'read-write'): Knex {
    const db = connectDatabase({ url: to, pool: 2, session });
    open.push(db);
    return db;
  }

  /** @param reads where is asked what the replica cannot say */
  const logOf = (replicaUrl: string, reads = url): ReadableLog =>
    new ReadableLog({ lookups: connect(url), reads: connect(reads), replica: connect(replicaUrl, 'any') }, (reason) =>
      told.push(reason),
    );
  const on = (server: PostgresServer): string => url.replace(`:${primary.port}/`, `:${server.port}/`);
  const write = (fee: number, to = url): Promise<unknown> => new TaskRepository(connect(to)).updateTaskFee(taskId, fee);
  const seen = async (log: ReadableLog): Promise<{ seq: number; fee: number }> => {
    const { seq, tasks } = (await log.snapshot(JOB, 10, 1_000_000)) as Snapshot;
    return { seq, fee: JSON.parse(tasks)[0].task_opx_cost };
  };
  const replayed = async (log: ReadableLog): Promise<{ seq: number; fees: unknown[] }> => {
    const { seq, events } = await log.read({ userId: 'alice', rooms: [{ ...JOB, after: 1 }], limit: 10 });
    return { seq, fees: events.map(({ changes }) => JSON.parse(changes).task_opx_cost) };
  };
  async function promote(): Promise<void> {
    promoted = true;
    await standby.promote();
  }
  /** Waits until a server has the stream up to a number. */
  async function shows(server: PostgresServer, seq: number): Promise<void> {
    const db = connect(on(server), 'any');
    await eventually(async () => {
      const { rows } = await db.raw('SELECT seq::int FROM event_streams');
      expect(rows).to.deep.equal([{ seq }]);
    });
  }

  it('is used alone while it is as new as the primary, and is no trouble while it is behind', async () => {
    await write(2);
    await shows(standby, 2);
    const alone = logOf(on(standby), NOBODY);
    expect(await seen(alone)).to.deep.equal({ seq: 2, fee: 2 });
    expect(await replayed(alone)).to.deep.equal({ seq: 2, fees: [2] });
    const log = logOf(on(standby));
    await standby.admin('SELECT pg_wal_replay_pause()');
    await write(3);
    expect(await seen(log)).to.deep.equal({ seq: 3, fee: 3 });
    expect(await replayed(log)).to.deep.equal({ seq: 3, fees: [2, 3] });
    expect(told).to.deep.equal([]);
    await standby.admin('SELECT pg_wal_replay_resume()');
  });

  it('may be the primary itself', async () => {
    await write(2);
    const log = logOf(`${url}?application_name=replica`, NOBODY);
    expect(await seen(log)).to.deep.equal({ seq: 2, fee: 2 });
    expect(await replayed(log)).to.deep.equal({ seq: 2, fees: [2] });
    expect(told).to.deep.equal([]);
  });

  it('that is another database is told, whether it has the stream or not', async () => {
    const other = await primary.createDatabase();
    const elsewhere = await startPostgres();
    try {
      const log = logOf(await elsewhere.createDatabase());
      expect(await seen(log)).to.deep.equal({ seq: 1, fee: null });
      expect(await seen(log)).to.deep.equal({ seq: 1, fee: null });
      expect(told).to.have.length(1);
      expect(told[0]).to.match(/it takes writes itself/);
      await new JobRepository(connect(other)).create({ job_id: '1', user_id: 'alice' });
      await new TaskRepository(connect(other)).createTaskData({ job_id: '1', task_definition_id: 1 });
      expect(await seen(logOf(other))).to.deep.equal({ seq: 1, fee: null });
      expect(told).to.have.length(2);
      expect(told[1]).to.match(/its streams have other epochs/);
    } finally {
      await elsewhere.stop();
    }
  });

  it('that refuses is told once, with its words, and again when it is used', async () => {
    await primary.admin('CREATE ROLE weak LOGIN');
    const log = logOf(on(standby).replace('//postgres@', '//weak@'));
    await eventually(async () => {
      await seen(log);
      expect(told.at(-1)).to.match(/permission denied/);
    });
    const before = told.length;
    expect(await seen(log)).to.deep.equal({ seq: 1, fee: null });
    expect(await replayed(log)).to.deep.equal({ seq: 1, fees: [] });
    expect(told).to.have.length(before);
    await connect(url).raw('GRANT SELECT ON ALL TABLES IN SCHEMA public TO weak');
    await eventually(async () => {
      await seen(log);
      expect(told.slice(before)).to.deep.equal([undefined]);
    });
  });

  it('that is away is told once, and again when it is back', async () => {
    const log = logOf(on(standby));
    await standby.halt('immediate');
    expect(await seen(log)).to.deep.equal({ seq: 1, fee: null });
    expect(await seen(log)).to.deep.equal({ seq: 1, fee: null });
    expect(told).to.have.length(1);
    await standby.start();
    await eventually(async () => {
      await seen(log);
      expect(told.slice(1)).to.deep.equal([undefined]);
    });
  });

  it('is not used from its promotion on, on connections that stay open', async () => {
    await write(2);
    const log = logOf(on(standby));
    await shows(standby, 2);
    expect(await seen(log)).to.deep.equal({ seq: 2, fee: 2 });
    expect(told).to.deep.equal([]);
    await promote();
    // What it says is still true. Its next write would not be.
    expect(await seen(log)).to.deep.equal({ seq: 2, fee: 2 });
    expect(told).to.have.length(1);
    // At the same number, and behind.
    await write(103, on(standby));
    await write(3);
    expect(await seen(log)).to.deep.equal({ seq: 3, fee: 3 });
    expect(await replayed(log)).to.deep.equal({ seq: 3, fees: [2, 3] });
    // Ahead.
    await write(104, on(standby));
    await write(105, on(standby));
    expect(await seen(log)).to.deep.equal({ seq: 3, fee: 3 });
    expect(await replayed(log)).to.deep.equal({ seq: 3, fees: [2, 3] });
    expect(told).to.have.length(1);
    expect(told[0]).to.match(/it takes writes itself and is not the server of DATABASE_URL/);
  });

  it('is not used when it follows a server with another history', async () => {
    await promote();
    const follower = await standby.startStandby();
    try {
      await write(102, on(standby));
      await write(2);
      await shows(follower, 2);
      const log = logOf(on(follower));
      expect(await seen(log)).to.deep.equal({ seq: 2, fee: 2 });
      expect(await replayed(log)).to.deep.equal({ seq: 2, fees: [2] });
      await write(3);
      expect(await seen(log)).to.deep.equal({ seq: 3, fee: 3 });
      expect(told).to.have.length(1);
      expect(told[0]).to.match(/it has other events under the same numbers/);
    } finally {
      await follower.stop();
    }
  });
});
