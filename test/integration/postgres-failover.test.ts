import { expect } from 'chai';
import type { Knex } from 'knex';
import { TaskwireError } from '../../src/protocol/errors.js';
import { connectDatabase } from '../../src/repository/connect-database.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { eventually } from '../support/eventually.js';
import { type PostgresServer, STANDBY_PROGRAMS, startPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { startTcpProxy, type TcpProxy } from '../support/tcp-proxy.js';

describeWith(STANDBY_PROGRAMS, 'a Postgres that fails over', function () {
  this.timeout(120_000);
  let primary: PostgresServer;
  let standby: PostgresServer;
  let proxy: TcpProxy | undefined;
  let name: string;
  const warnings: string[] = [];
  const open: Knex[] = [];

  const connect = (url: string): Knex => {
    const db = connectDatabase({ url, pool: 4, onWarning: (message) => warnings.push(message) });
    open.push(db);
    return db;
  };
  /** A repository and a task of a new job. */
  async function taskOn(db: Knex): Promise<{ tasks: TaskRepository; taskId: number }> {
    await new JobRepository(db).create({ job_id: '1', user_id: 'alice' });
    const tasks = new TaskRepository(db, { publish() {} });
    const { task_id } = await tasks.createTaskData({ job_id: '1', task_definition_id: 1, is_imua: false });
    return { tasks, taskId: task_id };
  }
  const writes = (tasks: TaskRepository, taskId: number, fee: number): Promise<string> =>
    tasks.updateTaskFee(taskId, fee).then(
      () => 'ok',
      (error: unknown) => (error instanceof TaskwireError ? error.code : String(error)),
    );
  /** Waits until the standby has all that the primary has committed. */
  async function caughtUp(): Promise<void> {
    await eventually(async () => {
      const { rows } = await primary.admin(
        'SELECT bool_and(replay_lsn = pg_current_wal_lsn()) AS same FROM pg_stat_replication',
      );
      expect(rows[0]?.same).to.equal(true);
    });
  }

  beforeEach(async () => {
    primary = await startPostgres();
    const url = await primary.createDatabase();
    name = url.slice(url.lastIndexOf('/') + 1);
    standby = await primary.startStandby();
    warnings.length = 0;
  });

  afterEach(async () => {
    await Promise.all(open.splice(0).map((db) => db.destroy()));
    await proxy?.stop();
    proxy = undefined;
    await standby.stop();
    await primary.stop();
  });

  it('keeps no connection to a server that was demoted, and writes go on where the address leads', async () => {
    proxy = await startTcpProxy({ port: primary.port });
    const db = connect(`postgres://postgres@127.0.0.1:${proxy.port}/${name}`);
    const { tasks, taskId } = await taskOn(db);
    // Four connections exist, and all of them stay open to the server that takes no writes any more.
    await Promise.all([1, 2, 3, 4].map((fee) => writes(tasks, taskId, fee)));
    await caughtUp();
    await primary.admin('ALTER SYSTEM SET default_transaction_read_only = on');
    await primary.admin('SELECT pg_reload_conf()');
    await eventually(async () => expect(await writes(tasks, taskId, 5)).to.equal('DATABASE_UNAVAILABLE'));
    await standby.promote();
    proxy.setTarget({ port: standby.port });
    expect(await Promise.all(Array.from({ length: 20 }, (_, fee) => writes(tasks, taskId, fee)))).to.deep.equal(
      Array(20).fill('ok'),
    );
    expect(warnings).to.include('the database server takes no writes; connections are made anew');
  });

  it('of several servers uses the one that takes writes, before and after', async () => {
    const db = connect(`postgres://postgres@127.0.0.1:${standby.port},127.0.0.1:${primary.port}/${name}`);
    const { tasks, taskId } = await taskOn(db);
    await caughtUp();
    await primary.halt('immediate');
    expect(await writes(tasks, taskId, 1)).to.equal('DATABASE_UNAVAILABLE');
    await standby.promote();
    await eventually(async () => expect(await writes(tasks, taskId, 2)).to.equal('ok'));
    expect(await Promise.all(Array.from({ length: 20 }, (_, fee) => writes(tasks, taskId, fee)))).to.deep.equal(
      Array(20).fill('ok'),
    );
  });

  it('says so when no server of the wanted kind is there', async () => {
    const db = connect(`postgres://postgres@127.0.0.1:${standby.port}/${name}`);
    const tasks = new TaskRepository(db);
    expect(await writes(tasks, 1, 1)).to.equal('DATABASE_UNAVAILABLE');
    const both = connect(
      `postgres://postgres@127.0.0.1:${standby.port},127.0.0.1:${primary.port}/${name}?target_session_attrs=standby`,
    );
    const { rows } = await both.raw('SELECT pg_is_in_recovery() AS standby');
    expect(rows[0].standby).to.equal(true);
  });
});
