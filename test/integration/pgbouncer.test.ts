import { expect } from 'chai';
import type { Knex } from 'knex';
import { connectDatabase } from '../../src/database/connect-database.js';
import { TaskwireError } from '../../src/protocol/errors.js';
import type { TaskEvent } from '../../src/protocol/events.js';
import { EventLog } from '../../src/repository/event-log.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import { TaskReader } from '../../src/repository/task-reader.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { migrate } from '../../src/schema/migrate.js';
import { PGBOUNCER_PROGRAMS, PgBouncer } from '../support/pgbouncer.js';
import { POSTGRES_PROGRAMS, type PostgresServer, startPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';

describeWith([...POSTGRES_PROGRAMS, ...PGBOUNCER_PROGRAMS], 'behind PgBouncer in transaction mode', function () {
  this.timeout(120_000);
  let server: PostgresServer;
  let bouncer: PgBouncer;
  const open: Knex[] = [];

  const connect = (parameters: string): Knex => {
    const db = connectDatabase({ url: bouncer.url('taskwire', parameters), pool: 12 });
    open.push(db);
    return db;
  };

  before(async () => {
    server = await startPostgres();
    bouncer = await PgBouncer.start(server.port);
  });
  afterEach(() => Promise.all(open.splice(0).map((db) => db.destroy())));
  after(async () => {
    await bouncer?.stop();
    await server?.stop();
  });

  it('migrates, writes in order and reads back, while sessions change hands', async () => {
    const db = connect('?prepare=false');
    await migrate(db);
    const events: TaskEvent[] = [];
    const tasks = new TaskRepository(db, { publish: (some) => events.push(...some) });
    await new JobRepository(db).create({ job_id: '1', user_id: 'alice' });
    const made = await Promise.all(
      Array.from({ length: 20 }, () => tasks.createTaskData({ job_id: '1', task_definition_id: 1, is_imua: false })),
    );
    await Promise.all(made.map(({ task_id }, fee) => tasks.updateTaskFee(task_id, fee)));
    expect(events.map(({ seq }) => seq).sort((a, b) => a - b)).to.deep.equal(
      Array.from({ length: 40 }, (_, i) => i + 1),
    );
    const log = new EventLog(db);
    const page = await log.read({ userId: 'alice', rooms: [{ kind: 'job', id: '1', after: 0 }], limit: 100 });
    expect(page.events.map(({ seq }) => seq)).to.deep.equal(Array.from({ length: 40 }, (_, i) => i + 1));
    expect(await new TaskReader(db).getTasksByJob('1')).to.have.length(20);
  });

  it('says what to add to the URL also when it ignores the settings of sessions', async () => {
    const ignored = 'extra_float_digits,options,statement_timeout,lock_timeout,idle_in_transaction_session_timeout';
    const ignoring = await PgBouncer.start(server.port, { ignore_startup_parameters: ignored });
    try {
      const db = connectDatabase({ url: ignoring.url('taskwire'), pool: 1 });
      open.push(db);
      await saysPrepareFalse(migrate(db));
      await saysItCannotServe(new TaskReader(db).getTask(1));
      const right = connectDatabase({ url: ignoring.url('taskwire', '?prepare=false'), pool: 1 });
      open.push(right);
      await migrate(right);
    } finally {
      await Promise.all(open.splice(0).map((db) => db.destroy()));
      await ignoring.stop();
    }
  });

  it('says what to add to the URL when it is missing', async () => {
    const db = connect('');
    await saysItCannotServe(new TaskReader(db).getTask(1));
    await saysPrepareFalse(migrate(db));
  });
});

const thrownBy = (work: Promise<unknown>): Promise<Error> =>
  work.then(
    () => expect.fail('it worked'),
    (error: Error) => error,
  );

/** At the start: nobody tries it again. */
async function saysPrepareFalse(work: Promise<unknown>): Promise<void> {
  const error = await thrownBy(work);
  expect(error).not.to.be.instanceOf(TaskwireError);
  expect(error.message).to.match(/prepare=false/);
}

/** While the service runs: the reason is for the operator, and clients come again. */
async function saysItCannotServe(work: Promise<unknown>): Promise<void> {
  const error = await thrownBy(work);
  expect(error).to.include({ code: 'DATABASE_UNAVAILABLE' });
  expect((error.cause as Error).message).to.match(/prepare=false/);
}
