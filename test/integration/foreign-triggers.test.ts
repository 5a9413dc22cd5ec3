import { expect } from 'chai';
import type { Knex } from 'knex';
import pg from 'pg';
import { connectDatabase } from '../../src/database/connect-database.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { eventually } from '../support/eventually.js';
import { POSTGRES_PROGRAMS, sharedPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { RestServer } from '../support/rest.js';

const SHOUT = `CREATE OR REPLACE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS
  $$ BEGIN NEW.task_status := upper(NEW.task_status); NEW.tx_url := 'x'; RETURN NEW; END $$`;
const CREATE = 'CREATE TRIGGER a_trigger BEFORE INSERT OR UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION shout()';
const DROP = 'DROP TRIGGER IF EXISTS a_trigger ON tasks';

describeWith(POSTGRES_PROGRAMS, 'triggers of the operator', () => {
  let url: string;
  let db: Knex;
  let rest: RestServer;
  let key: string;
  let id: number;

  before(async () => {
    url = await (await sharedPostgres()).createDatabase();
    db = connectDatabase({ url, pool: 4 });
    rest = new RestServer(db);
    await rest.start();
    await new JobRepository(db).create({ job_id: 1, user_id: 'ada' });
    key = await rest.makeKey('ada', 'service');
    await db.raw(SHOUT);
  });

  beforeEach(async () => {
    id = (await new TaskRepository(db).createTaskData({ job_id: 1, task_definition_id: 1 })).task_id;
  });

  afterEach(() => db.raw(DROP));
  after(() => rest?.stop());

  it('are in what REST answers', async () => {
    await db.raw(CREATE);
    const put = (path: string, body: unknown) => rest.request('PUT', path, { key, body });
    const status = await put(`/api/tasks/${id}/status`, { task_status: 'failed' });
    expect(status.status).to.equal(200);
    expect(status.body).to.include({ task_id: id, task_status: 'FAILED' });
    expect(JSON.parse(rest.events.at(-1)!.changes)).to.include({ task_status: 'FAILED', tx_url: 'x' });
    const fee = await put(`/api/tasks/${id}/fee`, { fee: 0.5 });
    expect(fee.body).to.include({ task_id: id, fee: 0.5 });
    const batch = await put('/api/tasks', [
      { kind: 'status', task_id: id, task_status: 'a' },
      { kind: 'fee', task_id: 999_999, fee: 1 },
      { kind: 'fee', task_id: id, fee: 1 },
    ]);
    expect(batch.status).to.equal(207);
    const seqs = batch.body.results.map(
      (result: { seq?: number; error?: { code: string } }) => result.seq ?? result.error?.code,
    );
    expect(seqs).to.deep.equal([fee.body.seq + 1, 'NOT_FOUND', fee.body.seq + 2]);
    await db.raw(`${DROP}; CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
      CREATE TRIGGER a_trigger BEFORE UPDATE OR DELETE ON tasks FOR EACH ROW EXECUTE FUNCTION no()`);
    const events = rest.events.length;
    for (const answer of [
      await put(`/api/tasks/${id}/status`, { task_status: 'failed' }),
      await rest.request('DELETE', `/api/tasks/${id}`, { key }),
    ]) {
      expect(answer.status).to.equal(409);
      expect(answer.body).to.have.nested.property('error.code', 'WRITE_REFUSED');
    }
    expect(rest.events).to.have.length(events);
  });

  /** A trigger comes or goes in a transaction that somebody commits while a write waits for it. */
  async function meanwhile(
    statement: string,
    end: 'COMMIT' | 'ROLLBACK',
    write: () => Promise<unknown>,
  ): Promise<void> {
    const other = new pg.Client(url);
    await other.connect();
    try {
      await other.query('BEGIN');
      await other.query(statement);
      const written = write();
      await eventually(async () => {
        const { rows } = await db.raw(
          `SELECT count(*)::int AS waiting FROM pg_locks WHERE NOT granted AND relation = 'tasks'::regclass`,
        );
        expect(rows[0].waiting).to.equal(1);
      });
      await other.query(end);
      await written;
    } finally {
      await other.end();
    }
  }

  async function expectSeen(parameters: string): Promise<void> {
    const own = connectDatabase({ url: url + parameters, pool: 1 });
    const statuses: string[] = [];
    try {
      const write = async (tasks: TaskRepository): Promise<void> => {
        statuses.push((await tasks.updateTaskNumberAndStatus(id, null, 'a')).task_status);
      };
      // A plan is first made for each execution, then kept.
      for (const times of [0, 1, 20]) {
        const tasks = (): TaskRepository => new TaskRepository(own);
        for (let time = 0; time < times; time += 1) {
          await tasks().updateTaskNumberAndStatus(id, null, 'a');
        }
        await meanwhile(CREATE, 'COMMIT', () => write(tasks()));
        await meanwhile(`${DROP}; ${CREATE}`, 'ROLLBACK', () => write(tasks()));
        await meanwhile('ALTER TABLE tasks DISABLE TRIGGER a_trigger', 'COMMIT', () => write(tasks()));
        await meanwhile('ALTER TABLE tasks ENABLE TRIGGER a_trigger', 'COMMIT', () => write(tasks()));
        await meanwhile(DROP, 'COMMIT', () => write(tasks()));
        await meanwhile(CREATE, 'ROLLBACK', () => write(tasks()));
      }
      expect(statuses).to.deep.equal(Array.from({ length: 3 }, () => ['A', 'A', 'a', 'A', 'a', 'a']).flat());
      const { rows } = await db.raw(
        `SELECT changes ->> 'task_status' AS status FROM task_events WHERE task_id = ? AND type <> 'TASK_CREATED'`,
        [id],
      );
      expect(rows.filter(({ status }: { status: string }) => status === 'A')).to.have.length(9);
    } finally {
      await own.destroy();
    }
  }

  it('are seen by prepared statements that wait for one to be made', () => expectSeen(''));

  it('are seen by unprepared statements that wait for one to be made', () => expectSeen('?prepare=false'));

  it('cost nothing where there are none: the question is no part of the plan', async () => {
    await db.raw(
      'PREPARE an_update AS UPDATE tasks SET tx_url = NULL WHERE task_id = 1 AND taskwire_rows_are_ours(19)',
    );
    const { rows } = await db.raw('EXPLAIN EXECUTE an_update');
    expect(JSON.stringify(rows)).not.to.contain('taskwire_rows_are_ours').and.not.to.contain('One-Time');
  });

  it('that are made in a transaction are seen by the writes that join it', async () => {
    const tasks = new TaskRepository(db);
    await db.transaction(async (transaction) => {
      const within = tasks.within(transaction);
      expect(await within.updateTaskNumberAndStatus(id, null, 'a')).to.include({ task_status: 'a' });
      await transaction.raw(CREATE);
      expect(await within.updateTaskNumberAndStatus(id, null, 'b')).to.include({ task_status: 'B' });
      await transaction.raw(DROP);
    });
    expect(await tasks.updateTaskNumberAndStatus(id, null, 'c')).to.include({ task_status: 'c' });
  });
});
