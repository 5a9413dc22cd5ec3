import { expect } from 'chai';
import type { Knex } from 'knex';
import { connectDatabase } from '../../src/database/connect-database.js';
import { envelopeText, type TaskEvent } from '../../src/protocol/events.js';
import { EventLog } from '../../src/repository/event-log.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { migrate } from '../../src/schema/migrate.js';
import { expectChained, type SuiteDatabase } from './repository.suite.js';

type Said = Readonly<Record<string, unknown>>;

/** Whoever commits a change of a task, it is one event of its owner's stream. */
export function captureSuite(open: () => Promise<SuiteDatabase>): void {
  let database: SuiteDatabase;
  let db: Knex;
  let log: EventLog;
  let tasks: TaskRepository;
  let published: TaskEvent[];
  let users = 0;
  let user: string;
  let job: string;
  let base: number;

  before(async function () {
    this.timeout(60_000);
    database = await open();
    db = connectDatabase({ url: database.url, pool: 4 });
    log = new EventLog(db);
    tasks = new TaskRepository(db, { publish: (events) => published.push(...events) });
  });

  after(async () => {
    await db?.destroy();
    await database?.stop();
  });

  beforeEach(async () => {
    users += 1;
    user = `captured_${users}`;
    job = String(users);
    published = [];
    base = 0;
    await new JobRepository(db).create({ job_id: job, user_id: user });
  });

  const sql = (text: string, ...bindings: readonly Knex.RawBinding[]): Promise<unknown> => db.raw(text, bindings);
  const read = async (owner = user): Promise<TaskEvent[]> => [
    ...(await log.read({ userId: owner, rooms: [{ kind: 'user', id: owner, after: base }], limit: 1_000 })).events,
  ];
  const said = async (owner = user): Promise<Said[]> =>
    (await read(owner)).map(({ type, taskId, changes }) => {
      const { task_id, job_id, user_id, ...rest } = JSON.parse(changes);
      return { type, taskId, ...rest };
    });
  const kinds = async (owner = user): Promise<string[]> =>
    (await read(owner)).map(({ type, taskId }) => `${type} ${taskId}`);
  /** A task, and nothing said of it since. */
  const task = async (): Promise<number> => {
    const { task_id, seq } = await tasks.createTaskData({ job_id: job, task_definition_id: 1 });
    base = seq!;
    published = [];
    return task_id;
  };
  const INSERT = `INSERT INTO tasks (job_id, user_id, task_definition_id, is_imua, task_status, created_at)
    VALUES (?, ?, 5, true, 'pending', '2024-01-01T00:00:00.123456Z') RETURNING task_id`;
  /** What the rows of the user are, and what its events add up to. */
  const expectTrue = async (): Promise<void> => {
    base = 0;
    const rows = new Map<number, Said>();
    const events = await read();
    expect(events.map(({ seq }) => seq)).to.deep.equal(events.map((_, index) => index + 1));
    for (const { type, taskId, changes } of events) {
      const { old_status, new_status, old_fee, new_fee, ...row } = JSON.parse(changes);
      if (type === 'TASK_DELETED') {
        expect(rows.delete(taskId), `${taskId} was known`).to.equal(true);
      } else {
        expect(rows.has(taskId)).to.equal(type !== 'TASK_CREATED');
        rows.set(taskId, { ...rows.get(taskId), ...row });
      }
    }
    expectChained(events);
    const snapshot = await log.snapshot({ kind: 'user', id: user, name: `user:${user}` }, 1_000);
    expect(snapshot?.seq).to.equal(events.length);
    const byId = (one: Said, other: Said): number => Number(one['task_id']) - Number(other['task_id']);
    expect([...rows.values()].sort(byId)).to.deep.equal(JSON.parse(snapshot!.tasks));
  };

  it('makes the very events that the repository makes', async () => {
    const [ours, theirs] = [await task(), await task()];
    await tasks.updateTaskNumberAndStatus(ours, 4, 'processing', '0x1');
    await tasks.updateTaskFee(ours, 1e-7);
    await tasks.updateTaskExecutionData(ours, {
      task_performer_id: 9_007_199_254_740_991,
      execution_timestamp: '2024-01-01T05:30:00.123+05:30',
      proof_of_task: 'ü"\\ \u2028\u{1F600}',
      task_opx_cost: 1e21,
      converted_arguments: { b: [1e21, null, -0.25], a: 'x' },
      task_status: 'done',
      task_error: 'none',
    });
    await tasks.updateTaskAttestationData(ours, { task_attester_ids: [3, 1], is_successful: true, tp_signature: '' });
    await tasks.updateTaskFee(ours, 0.1);
    await tasks.deleteTaskData(ours);
    await sql(
      `UPDATE tasks SET task_number = 4, task_status = 'processing', task_submission_tx_hash = '0x1'
      WHERE task_id = ?`,
      theirs,
    );
    await sql('UPDATE tasks SET task_opx_cost = 1e-7 WHERE task_id = ?', theirs);
    await sql(
      `UPDATE tasks SET task_performer_id = 9007199254740991, execution_timestamp = '2024-01-01T00:00:00.123Z',
         proof_of_task = ?, task_opx_cost = 1e21, converted_arguments = ?, task_status = 'done', task_error = 'none'
       WHERE task_id = ?`,
      'ü"\\ \u2028\u{1F600}',
      JSON.stringify({ b: [1e21, null, -0.25], a: 'x' }),
      theirs,
    );
    await sql(
      `UPDATE tasks SET task_attester_ids = '[3, 1]', is_successful = true, tp_signature = ''
      WHERE task_id = ?`,
      theirs,
    );
    await sql('UPDATE tasks SET task_opx_cost = 0.1 WHERE task_id = ?', theirs);
    await sql('DELETE FROM tasks WHERE task_id = ?', theirs);
    const texts = (await read()).map((event) => {
      const { seq, changes } = event;
      const neutral = changes.replace(/"task_id": \d+/, '"task_id": 0');
      return {
        id: event.taskId,
        text: envelopeText({ ...event, taskId: 0, seq: 0, timestamp: '', changes: neutral }),
        seq,
      };
    });
    const of = (id: number): string[] => texts.flatMap((event) => (event.id === id ? [event.text] : []));
    expect(of(ours)).to.have.length(6);
    expect(of(theirs)).to.deep.equal(of(ours));
    expect(published).to.have.length(6);
    await expectTrue();
  });

  it('shows a whole row when a task is inserted', async () => {
    const { rows } = (await sql(INSERT, job, user)) as { rows: Array<{ task_id: string }> };
    const id = Number(rows[0]!.task_id);
    const row = (await tasks.getTask(id))!;
    const [event] = await read();
    expect(event).to.include({ type: 'TASK_CREATED', taskId: id, jobId: job, seq: 1 });
    expect(JSON.parse(event!.changes)).to.deep.equal(row);
    expect(row.created_at).to.equal('2024-01-01T00:00:00.123Z');
    const ours = await tasks.createTaskData({ job_id: job, task_definition_id: 1 });
    expect(JSON.parse((await read())[1]!.changes)).to.deep.equal(await tasks.getTask(ours.task_id));
    await expectTrue();
  });

  it('makes one event of several changes of a task in one transaction, with its final state', async () => {
    const id = await task();
    await db.transaction(async (trx) => {
      await trx.raw(`UPDATE tasks SET task_status = 'a' WHERE task_id = ?`, [id]);
      await trx.raw(`UPDATE tasks SET task_status = 'b', task_opx_cost = 3 WHERE task_id = ?`, [id]);
      await trx.raw(`UPDATE tasks SET task_opx_cost = NULL WHERE task_id = ?`, [id]);
    });
    expect(await said()).to.deep.equal([
      { type: 'TASK_STATUS_CHANGED', taskId: id, task_status: 'b', old_status: 'pending', new_status: 'b' },
    ]);
    await expectTrue();
  });

  it('says nothing of what comes to nothing', async () => {
    const id = await task();
    await sql('UPDATE tasks SET task_status = task_status WHERE task_id = ?', id);
    await db.transaction(async (trx) => {
      await trx.raw(`UPDATE tasks SET task_status = 'a' WHERE task_id = ?`, [id]);
      await trx.raw(`UPDATE tasks SET task_status = 'pending' WHERE task_id = ?`, [id]);
      const { rows } = await trx.raw(INSERT, [job, user]);
      await trx.raw('DELETE FROM tasks WHERE task_id = ?', [rows[0].task_id]);
    });
    await db
      .transaction(async (trx) => {
        await trx.raw(`UPDATE tasks SET task_status = 'never' WHERE task_id = ?`, [id]);
        throw new Error('rolled back');
      })
      .catch(() => {});
    expect(await said()).to.deep.equal([]);
    await expectTrue();
  });

  it('forgets what a savepoint takes back, and no more', async () => {
    const id = await task();
    await db.transaction(async (trx) => {
      await trx.raw('SAVEPOINT one');
      await trx.raw(`UPDATE tasks SET task_status = 'never' WHERE task_id = ?`, [id]);
      await trx.raw(INSERT, [job, user]);
      await trx.raw('ROLLBACK TO SAVEPOINT one');
      await trx.raw(`UPDATE tasks SET task_opx_cost = 1 WHERE task_id = ?`, [id]);
      await trx.raw('SAVEPOINT two');
      await trx.raw(`UPDATE tasks SET task_opx_cost = 2 WHERE task_id = ?`, [id]);
      await trx.raw('ROLLBACK TO SAVEPOINT two');
      await trx.raw('SAVEPOINT three');
      await trx.raw(`UPDATE tasks SET tx_url = 'x' WHERE task_id = ?`, [id]);
      await trx.raw('RELEASE SAVEPOINT three');
    });
    expect(await said()).to.deep.equal([{ type: 'TASK_UPDATED', taskId: id, task_opx_cost: 1, tx_url: 'x' }]);
    await expectTrue();
  });

  it('makes one event of a task that is deleted and inserted again, and one of one that is updated and deleted', async () => {
    const [again, gone] = [await task(), await task()];
    await db.transaction(async (trx) => {
      await trx.raw(`UPDATE tasks SET task_status = 'late' WHERE task_id = ?`, [gone]);
      await trx.raw('DELETE FROM tasks WHERE task_id = ANY(?)', [[again, gone]]);
      await trx.raw(
        `INSERT INTO tasks (task_id, job_id, user_id, task_definition_id, is_imua, task_status, created_at)
         SELECT ?, ?, ?, 1, false, 'new', created_at FROM (SELECT '2024-01-01Z'::timestamptz AS created_at) t`,
        [again, job, user],
      );
    });
    const events = await said();
    expect(events).to.have.length(2);
    expect(events).to.deep.include({ type: 'TASK_DELETED', taskId: gone, old_status: 'pending', old_fee: null });
    expect(events.find(({ taskId }) => taskId === again)).to.deep.equal({
      type: 'TASK_UPDATED',
      taskId: again,
      task_status: 'new',
      created_at: '2024-01-01T00:00:00.000Z',
    });
    await expectTrue();
  });

  it('moves a task between jobs, users and ids', async () => {
    const [one, two] = [await task(), await task()];
    const other = `${user}_other`;
    await sql('INSERT INTO users (user_id) VALUES (?)', other);
    await sql('INSERT INTO jobs (job_id, user_id) VALUES (?, ?), (?, ?)', `1000${job}`, user, `2000${job}`, other);
    await sql('UPDATE tasks SET job_id = ? WHERE task_id = ?', `1000${job}`, one);
    expect(await kinds()).to.deep.equal([`TASK_DELETED ${one}`, `TASK_CREATED ${one}`]);
    expect((await read()).map(({ jobId }) => jobId)).to.deep.equal([job, `1000${job}`]);
    base += 2;
    await sql('UPDATE tasks SET job_id = ?, user_id = ? WHERE task_id = ?', `2000${job}`, other, one);
    expect(await kinds()).to.deep.equal([`TASK_DELETED ${one}`]);
    base = 0;
    expect(await kinds(other)).to.deep.equal([`TASK_CREATED ${one}`]);
    base = 5;
    await sql('UPDATE tasks SET task_id = ? WHERE task_id = ?', 700_000 + two, two);
    expect((await kinds()).sort()).to.deep.equal([`TASK_CREATED ${700_000 + two}`, `TASK_DELETED ${two}`]);
    await expectTrue();
  });

  it('makes both events of a task that the repository and a stranger change in one transaction', async () => {
    const id = await task();
    await db.transaction(async (trx) => {
      const joined = tasks.within(trx);
      await trx.raw(`UPDATE tasks SET task_status = 'a' WHERE task_id = ?`, [id]);
      await joined.updateTaskNumberAndStatus(id, undefined, 'b');
      await joined.updateTaskFee(id, 2);
      await trx.raw(`UPDATE tasks SET task_status = 'c', task_opx_cost = 5 WHERE task_id = ?`, [id]);
      await trx.raw(`UPDATE tasks SET task_opx_cost = 2 WHERE task_id = ?`, [id]);
      const made = await joined.createTaskData({ job_id: job, task_definition_id: 3 });
      await trx.raw('DELETE FROM tasks WHERE task_id = ?', [made.task_id]);
      await trx.raw(INSERT, [job, user]);
      const { rows } = await trx.raw(INSERT, [job, user]);
      await joined.deleteTaskData(Number(rows[0].task_id));
      expect(published).to.deep.equal([]);
    });
    expect(published).to.deep.equal([]);
    const status = (await said()).filter(({ type }) => type === 'TASK_STATUS_CHANGED');
    expect(status.map(({ old_status, new_status }) => `${old_status} ${new_status}`)).to.deep.equal([
      'pending a',
      'a b',
      'b c',
    ]);
    await expectTrue();
  });

  it('tells each change at once where constraints are immediate', async () => {
    const id = await task();
    await db.transaction(async (trx) => {
      await trx.raw(`UPDATE tasks SET task_status = 'a' WHERE task_id = ?`, [id]);
      await trx.raw(`UPDATE tasks SET task_status = 'b' WHERE task_id = ?`, [id]);
      await trx.raw('SET CONSTRAINTS ALL IMMEDIATE');
      await trx.raw(`UPDATE tasks SET task_status = 'c' WHERE task_id = ?`, [id]);
      await trx.raw('SAVEPOINT one');
      await trx.raw(`UPDATE tasks SET task_status = 'never' WHERE task_id = ?`, [id]);
      await trx.raw('ROLLBACK TO SAVEPOINT one');
      await trx.raw(`UPDATE tasks SET task_id = task_id + 800000 WHERE task_id = ?`, [id]);
      await trx.raw('SET CONSTRAINTS ALL DEFERRED');
      await trx.raw(`UPDATE tasks SET task_status = 'd' WHERE task_id = ?`, [id + 800_000]);
      await trx.raw(`UPDATE tasks SET task_status = 'e' WHERE task_id = ?`, [id + 800_000]);
    });
    const status = (await said()).filter(({ type }) => type === 'TASK_STATUS_CHANGED');
    expect(status.map(({ old_status, new_status }) => `${old_status} ${new_status}`)).to.deep.equal([
      'pending b',
      'b c',
      'c e',
    ]);
    await expectTrue();
  });

  it('hears many rows, ON CONFLICT, and settings of others', async () => {
    const { rows } = (await sql(
      `INSERT INTO tasks (job_id, user_id, task_definition_id, is_imua, task_status, created_at)
       SELECT ?, ?, n, false, 'pending', now() FROM generate_series(1, 50) n RETURNING task_id`,
      job,
      user,
    )) as { rows: Array<{ task_id: string }> };
    await db.transaction(async (trx) => {
      await trx.raw(`SET LOCAL extra_float_digits = -10`);
      await trx.raw(`SET LOCAL "TimeZone" = 'Asia/Kolkata'`);
      await trx.raw(`SET LOCAL "DateStyle" = 'SQL, DMY'`);
      await trx.raw(`SET LOCAL search_path = pg_catalog`);
      await trx.raw(
        `UPDATE public.tasks SET task_opx_cost = 0.1234567890123456, execution_timestamp = '2024-01-01T00:00:00Z'
         WHERE user_id = ?`,
        [user],
      );
    });
    await sql(
      `INSERT INTO tasks (task_id, job_id, user_id, task_definition_id, is_imua, task_status, created_at)
       SELECT t, ?, ?, 1, false, 'upserted', now() FROM unnest(?::bigint[]) t
       ON CONFLICT (task_id) DO UPDATE SET task_status = excluded.task_status`,
      job,
      user,
      [...rows.slice(0, 2).map(({ task_id }) => task_id), '900000000'],
    );
    await sql('DELETE FROM tasks WHERE user_id = ? AND task_definition_id > 40', user);
    expect(await read()).to.have.length(50 + 50 + 3 + 10);
    await expectTrue();
  });

  it('gives users that appear by SQL a stream', async () => {
    await sql(`INSERT INTO users (user_id) VALUES (?)`, `${user}_sql`);
    expect(await log.state(`${user}_sql`)).to.include({ seq: 0 });
  });

  it('keeps silent where that is asked for', async () => {
    const id = await task();
    const silent = new TaskRepository(db, { publish: (events) => published.push(...events) }, { capture: 'off' });
    expect(await silent.updateTaskFee(id, 3)).to.not.have.property('seq');
    await silent.updateManyTaskData(user, [{ kind: 'fee', task_id: id, fee: 4 }]);
    const made = await silent.createTaskData({ job_id: job, task_definition_id: 1 });
    await silent.createManyTaskData(user, [{ job_id: job, task_definition_id: 1 }]);
    await silent.deleteTaskData(made.task_id);
    await db.transaction(async (trx) => {
      await trx.raw(`SET LOCAL taskwire.capture = 'off'`);
      await trx.raw(`UPDATE tasks SET task_status = 'silent' WHERE task_id = ?`, [id]);
      await trx.raw(INSERT, [job, user]);
    });
    expect(await said()).to.deep.equal([]);
    expect(published).to.deep.equal([]);
    await sql(`UPDATE tasks SET task_status = 'loud' WHERE task_id = ?`, id);
    expect(await said()).to.have.length(1);
  });

  it('can be left out, and taken up again', async () => {
    const id = await task();
    await migrate(db, { capture: 'off' });
    await sql(`UPDATE tasks SET task_status = 'unheard' WHERE task_id = ?`, id);
    await tasks.updateTaskFee(id, 1);
    await tasks.within(db).updateTaskFee(id, 2);
    await migrate(db);
    await sql(`UPDATE tasks SET task_status = 'unheard too' WHERE task_id = ?`, id);
    await migrate(db, { capture: 'on' });
    await sql(`UPDATE tasks SET task_status = 'heard' WHERE task_id = ?`, id);
    expect(await kinds()).to.deep.equal([
      `TASK_FEE_UPDATED ${id}`,
      `TASK_FEE_UPDATED ${id}`,
      `TASK_STATUS_CHANGED ${id}`,
    ]);
  });

  it('logs what is written without a publisher', async () => {
    const id = await task();
    const plain = new TaskRepository(db);
    const { seq } = await plain.updateTaskFee(id, 5);
    const [outcome] = await plain.updateManyTaskData(user, [{ kind: 'status', task_id: id, task_status: 'x' }]);
    expect([seq, (outcome as { seq?: number }).seq]).to.deep.equal([base + 1, base + 2]);
    await plain.deleteTaskData(id);
    expect(await kinds()).to.deep.equal([`TASK_FEE_UPDATED ${id}`, `TASK_STATUS_CHANGED ${id}`, `TASK_DELETED ${id}`]);
    await expectTrue();
  });
}
