import { expect } from 'chai';
import type { Knex } from 'knex';
import { connectDatabase } from '../../src/database/connect-database.js';
import { TaskwireError } from '../../src/protocol/errors.js';
import type { TaskEvent } from '../../src/protocol/events.js';
import { EventLog } from '../../src/repository/event-log.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { expectChained, type SuiteDatabase } from './repository.suite.js';

type Said = Readonly<Record<string, unknown>>;

/** A trigger of the operator, which goes off before a row is written. */
interface Trigger {
  readonly before?: 'INSERT' | 'UPDATE' | 'DELETE';
  /** Its PL/pgSQL, up to what it returns. */
  readonly does?: string;
  readonly returns?: 'NEW' | 'OLD' | 'NULL';
}

const outcomeOf = (work: Promise<unknown>): Promise<unknown> =>
  work.catch((error) => (error instanceof TaskwireError ? error.code : error));

/** What is told and answered is what the row became, whatever triggers of the operator make of a write. */
export function foreignTriggersSuite(open: () => Promise<SuiteDatabase>): void {
  let database: SuiteDatabase;
  let db: Knex;
  let log: EventLog;
  let tasks: TaskRepository;
  let published: TaskEvent[];
  let jobs = 0;
  let user: string;
  let job: string;
  let id: number;

  before(async function () {
    this.timeout(60_000);
    database = await open();
    db = connectDatabase({ url: database.url, pool: 6 });
    log = new EventLog(db);
  });

  after(async () => {
    await db?.destroy();
    await database?.stop();
  });

  const newTask = async (): Promise<number> =>
    (await tasks.createTaskData({ job_id: job, task_definition_id: 1 })).task_id;
  const newJob = async (owner: string): Promise<string> => {
    jobs += 1;
    return (await new JobRepository(db).create({ job_id: String(jobs), user_id: owner })).job_id;
  };

  beforeEach(async () => {
    tasks = new TaskRepository(db, { publish: (events) => published.push(...events) });
    published = [];
    user = `user_${jobs}`;
    job = await newJob(user);
    id = await newTask();
    published = [];
  });

  const remove = 'DROP TRIGGER IF EXISTS a_trigger ON tasks; DROP FUNCTION IF EXISTS foreign_trigger';
  afterEach(() => db.raw(remove));

  const trigger = async ({ before = 'UPDATE', does = '', returns = 'NEW' }: Trigger): Promise<void> => {
    await db.raw(`CREATE FUNCTION foreign_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
      BEGIN ${does} RETURN ${returns}; END $$`);
    await db.raw(`CREATE TRIGGER a_trigger BEFORE ${before} ON tasks FOR EACH ROW EXECUTE FUNCTION foreign_trigger()`);
  };
  const read = async (owner = user): Promise<readonly TaskEvent[]> =>
    (await log.read({ userId: owner, rooms: [{ kind: 'user', id: owner, after: 0 }], limit: 1_000_000 })).events;
  /** What was told since the first task was made. */
  const told = async (owner = user): Promise<Said[]> =>
    (await read(owner))
      .filter(({ seq }) => seq > (owner === user ? 1 : 0))
      .map(({ type, taskId, changes }) => {
        const { task_id, job_id, user_id, created_at, ...rest } = JSON.parse(changes);
        return { type, taskId, ...rest };
      });
  /** The rows of a user are what its events add up to, and what was published are events of the log. */
  const expectTrue = async (...owners: readonly string[]): Promise<void> => {
    for (const owner of [user, ...owners]) {
      const rows = new Map<number, Said>();
      const events = await read(owner);
      expect(events.map(({ seq }) => seq)).to.deep.equal(events.map((_, index) => index + 1));
      for (const { type, taskId, changes } of events) {
        const { old_status, new_status, old_fee, new_fee, ...row } = JSON.parse(changes);
        expect(rows.has(taskId), `${type} ${taskId}`).to.equal(type !== 'TASK_CREATED');
        if (type === 'TASK_DELETED') {
          rows.delete(taskId);
        } else {
          rows.set(taskId, { ...rows.get(taskId), ...row });
        }
      }
      expectChained(events);
      const snapshot = await log.snapshot({ kind: 'user', id: owner, name: `user:${owner}` }, 1_000);
      expect(snapshot?.seq).to.equal(events.length);
      const byId = (one: Said, other: Said): number => Number(one['task_id']) - Number(other['task_id']);
      expect([...rows.values()].sort(byId)).to.deep.equal(JSON.parse(snapshot!.tasks).sort(byId));
      const ours = published.filter(({ userId }) => userId === owner);
      const texts = new Map(events.map((event) => [event.seq, event.changes]));
      expect(ours.map(({ changes }) => changes)).to.deep.equal(ours.map(({ seq }) => texts.get(seq)));
    }
  };

  it('tells what a trigger changes beside what was asked for, in one event', async () => {
    await trigger({ does: `NEW.tx_url := coalesce(NEW.tx_url, '') || 'x';` });
    expect(await tasks.updateTaskNumberAndStatus(id, 4, 'running', '0x1')).to.include({
      seq: 2,
      task_status: 'running',
    });
    expect(await tasks.updateTaskFee(id, 0.1)).to.include({ seq: 3, fee: 0.1 });
    await tasks.updateTaskExecutionData(id, { proof_of_task: 'p' });
    await tasks.updateTaskAttestationData(id, { is_successful: true });
    expect(await told()).to.deep.equal([
      {
        type: 'TASK_UPDATED',
        taskId: id,
        task_number: 4,
        task_status: 'running',
        task_submission_tx_hash: '0x1',
        tx_url: 'x',
      },
      { type: 'TASK_UPDATED', taskId: id, task_opx_cost: 0.1, tx_url: 'xx' },
      { type: 'TASK_UPDATED', taskId: id, proof_of_task: 'p', tx_url: 'xxx' },
      { type: 'TASK_UPDATED', taskId: id, is_successful: true, is_accepted: true, tx_url: 'xxxx' },
    ]);
    expect(published).to.have.length(4);
    await expectTrue();
  });

  it('tells and answers what a written column became', async () => {
    await trigger({
      does: `NEW.task_status := upper(NEW.task_status); NEW.task_opx_cost := round(NEW.task_opx_cost::numeric, 1);`,
    });
    expect(await tasks.updateTaskNumberAndStatus(id, null, 'failed')).to.include({ seq: 2, task_status: 'FAILED' });
    expect(await tasks.updateTaskFee(id, 1.26)).to.include({ seq: 3, fee: 1.3 });
    expect(await told()).to.deep.equal([
      { type: 'TASK_STATUS_CHANGED', taskId: id, task_status: 'FAILED', old_status: 'pending', new_status: 'FAILED' },
      { type: 'TASK_FEE_UPDATED', taskId: id, task_opx_cost: 1.3, old_fee: null, new_fee: 1.3 },
    ]);
    await db.raw(`CREATE OR REPLACE FUNCTION foreign_trigger() RETURNS trigger LANGUAGE plpgsql AS
      $$ BEGIN NEW.task_opx_cost := NULL; RETURN NEW; END $$`);
    expect(await tasks.updateTaskFee(id, 2)).to.include({ fee: null });
    expect((await told()).at(-1)).to.deep.equal({ type: 'TASK_UPDATED', taskId: id, task_opx_cost: null });
    await expectTrue();
  });

  it('tells the named fields as they are where a trigger undoes a write', async () => {
    for (const undo of [
      { does: 'NEW.task_status := OLD.task_status; NEW.tx_url := OLD.tx_url;' },
      { does: 'NEW := OLD;' },
      { returns: 'OLD' },
    ] as const) {
      await trigger(undo);
      const { seq, task_status } = await tasks.updateTaskNumberAndStatus(id, null, 'running');
      expect(task_status).to.equal('pending');
      await tasks.updateTaskExecutionData(id, { tx_url: 'x' });
      expect((await told()).slice(seq! - 2)).to.deep.equal([
        {
          type: 'TASK_STATUS_CHANGED',
          taskId: id,
          task_status: 'pending',
          old_status: 'pending',
          new_status: 'pending',
        },
        { type: 'TASK_UPDATED', taskId: id, tx_url: null },
      ]);
      await db.raw(remove);
    }
    await trigger({ does: `NEW := OLD; NEW.tx_url := 'kept';` });
    await tasks.updateTaskFee(id, 1);
    expect((await told()).slice(-2)).to.deep.equal([
      { type: 'TASK_UPDATED', taskId: id, task_opx_cost: null },
      { type: 'TASK_UPDATED', taskId: id, tx_url: 'kept' },
    ]);
    await expectTrue();
  });

  it('tells nothing of what a trigger keeps out, and refuses the write', async () => {
    for (const before of ['UPDATE', 'DELETE', 'INSERT'] as const) {
      await trigger({ before, returns: 'NULL' });
      const writes = {
        UPDATE: [
          () => tasks.updateTaskNumberAndStatus(id, null, 'running', null, { idempotencyKey: `u${id}` }),
          () => tasks.updateTaskFee(id, 1),
        ],
        DELETE: [() => tasks.deleteTaskData(id), () => tasks.deleteTaskData(id, { idempotencyKey: `d${id}` })],
        INSERT: [() => tasks.createTaskData({ job_id: job, task_definition_id: 1 })],
      };
      for (const write of writes[before]) {
        expect(await outcomeOf(write())).to.equal('WRITE_REFUSED');
      }
      const updates = [id, 9_999_999].map((task_id) => ({ kind: 'fee' as const, task_id, fee: 1 }));
      if (before === 'UPDATE') {
        const outcomes = await tasks.updateManyTaskData(user, updates);
        expect(outcomes).to.have.nested.property('[0].code', 'WRITE_REFUSED');
        expect(outcomes).to.have.nested.property('[1].code', 'NOT_FOUND');
        expect(await tasks.updateManyTaskData('somebody', updates)).to.have.nested.property('[0].code', 'NOT_FOUND');
        expect(await outcomeOf(tasks.updateTaskFee(9_999_999, 1))).to.equal('NOT_FOUND');
      }
      if (before === 'INSERT') {
        const input = { job_id: job, task_definition_id: 1 };
        const outcomes = await tasks.createManyTaskData(user, [input, { ...input, job_id: '999999' }]);
        expect(outcomes).to.have.nested.property('[0].code', 'WRITE_REFUSED');
        expect(outcomes).to.have.nested.property('[1].code', 'NOT_FOUND');
      }
      await db.raw(remove);
    }
    expect(await told()).to.deep.equal([]);
    expect(published).to.deep.equal([]);
    expect(await tasks.getTask(id)).to.include({ task_status: 'pending', task_opx_cost: null });
    await expectTrue();
    // A key of a write that was kept out is free.
    const made = tasks.updateTaskNumberAndStatus(id, null, 'running', null, { idempotencyKey: `u${id}` });
    expect(await made).to.include({ seq: 2 });
  });

  it('tells of a row that a trigger marks in place of its deletion', async () => {
    await trigger({
      before: 'DELETE',
      does: `UPDATE tasks SET task_status = 'deleted' WHERE task_id = OLD.task_id;`,
      returns: 'NULL',
    });
    expect(await outcomeOf(tasks.deleteTaskData(id))).to.equal('WRITE_REFUSED');
    expect(await told()).to.deep.equal([
      { type: 'TASK_STATUS_CHANGED', taskId: id, task_status: 'deleted', old_status: 'pending', new_status: 'deleted' },
    ]);
    await expectTrue();
  });

  it('tells of each kind of column', async () => {
    await trigger({
      does: `NEW.task_attester_ids := '[3, 1]'; NEW.converted_arguments := '{"b": [1e21, null], "a": "\\u2028"}';
        NEW.task_opx_cost := 1e-7; NEW.task_number := 9007199254740991; NEW.is_successful := false; NEW.is_imua := true;
        NEW.execution_timestamp := '2024-01-01T05:30:00.123456+05:30'; NEW.created_at := '2020-01-01Z';
        NEW.proof_of_task := repeat('ü"\\', 20000); NEW.task_error := NULL;`,
    });
    await tasks.updateTaskExecutionData(id, {
      task_error: 'e',
      converted_arguments: [1],
      execution_timestamp: '2030-01-01T00:00:00Z',
    });
    expect(await told()).to.deep.include.members([
      {
        type: 'TASK_UPDATED',
        taskId: id,
        task_error: null,
        task_attester_ids: [3, 1],
        converted_arguments: { b: [1e21, null], a: '\u2028' },
        task_opx_cost: 1e-7,
        task_number: 9_007_199_254_740_991,
        is_successful: false,
        is_accepted: false,
        is_imua: true,
        execution_timestamp: '2024-01-01T00:00:00.123Z',
        proof_of_task: 'ü"\\'.repeat(20_000),
      },
    ]);
    await expectTrue();
  });

  it('makes each update of a batch, with what its own row became', async () => {
    const other = await newTask();
    await trigger({
      does: `IF NEW.task_status = 'never' THEN RETURN NULL; END IF;
        NEW.task_status := upper(NEW.task_status); NEW.task_number := coalesce(OLD.task_number, 0) + 1;`,
    });
    const status = (task_id: number, task_status: string) => ({ kind: 'status' as const, task_id, task_status });
    const updates = [
      { ...status(id, 'a'), idempotency_key: `a${id}` },
      status(other, 'b'),
      status(id, 'never'),
      status(id, 'c'),
      { ...status(id, 'a'), idempotency_key: `a${id}` },
      { kind: 'fee' as const, task_id: other, fee: 2 },
    ];
    const outcomes = await tasks.updateManyTaskData(user, updates);
    const seqs = outcomes.map((outcome) => (outcome instanceof TaskwireError ? outcome.code : outcome.seq));
    expect(seqs).to.deep.equal([3, 4, 'WRITE_REFUSED', 5, 3, 6]);
    expect((await told()).slice(1)).to.deep.equal([
      {
        type: 'TASK_STATUS_CHANGED',
        taskId: id,
        task_status: 'A',
        task_number: 1,
        old_status: 'pending',
        new_status: 'A',
      },
      {
        type: 'TASK_STATUS_CHANGED',
        taskId: other,
        task_status: 'B',
        task_number: 1,
        old_status: 'pending',
        new_status: 'B',
      },
      { type: 'TASK_STATUS_CHANGED', taskId: id, task_status: 'C', task_number: 2, old_status: 'A', new_status: 'C' },
      { type: 'TASK_UPDATED', taskId: other, task_opx_cost: 2, task_number: 2 },
    ]);
    const again = await tasks.updateManyTaskData(user, updates.slice(0, 1));
    expect(again).to.have.nested.property('[0].seq', 3);
    await expectTrue();
  });

  it('answers each item of a batch with its own task, whatever a trigger does to ids and to some of them', async () => {
    const elsewhere = await newJob(user);
    await trigger({
      before: 'INSERT',
      does: `IF NEW.task_definition_id = 11 THEN RETURN NULL; END IF;
        IF NEW.task_definition_id = 12 THEN NEW.job_id := ${elsewhere}; END IF;
        NEW.task_id := 2000000000 - NEW.task_id; NEW.tx_url := 'x';`,
    });
    const items = [10, 11, 12, 13].map((task_definition_id) => ({
      job_id: job,
      task_definition_id,
      idempotency_key: `${id} ${task_definition_id}`,
    }));
    for (const repository of [tasks, new TaskRepository(db)]) {
      const outcomes = await repository.createManyTaskData(user, items);
      for (const [index, outcome] of outcomes.entries()) {
        if (index === 1) {
          expect(outcome).to.have.property('code', 'WRITE_REFUSED');
        } else {
          const { task_id, job_id } = outcome as { task_id: number; job_id: string };
          expect(task_id).to.be.above(1e9);
          expect(await tasks.getTask(task_id)).to.include({ task_definition_id: 10 + index, tx_url: 'x', job_id });
          expect(job_id).to.equal(index === 2 ? elsewhere : job);
        }
      }
    }
    expect(await told()).to.have.length(3);
    await expectTrue();
  });

  it('tells of a task that a trigger moves as of any that moves', async () => {
    const [near, stranger] = [await newJob(user), `other_${jobs}`];
    const far = await newJob(stranger);
    for (const [does, owner] of [
      [`NEW.job_id := ${near}; NEW.tx_url := 'x';`, user],
      ['NEW.task_id := OLD.task_id + 1000000;', user],
      [`NEW.job_id := ${far}; NEW.user_id := '${stranger}';`, stranger],
    ] as const) {
      const task = await newTask();
      const before = (await told(owner)).length + (owner === user ? 0 : (await told()).length);
      await trigger({ does });
      const key = { idempotencyKey: `moved ${task}` };
      const write = await tasks.updateTaskNumberAndStatus(task, null, 'running', null, key);
      // Who writes is answered with what becomes of the task that it wrote to.
      expect(write).to.include({ task_id: task, user_id: user, job_id: job, task_status: 'running' });
      expect((await tasks.updateTaskNumberAndStatus(task, null, 'running', null, key)).seq).to.equal(write.seq);
      expect((await read()).find(({ seq }) => seq === write.seq)).to.include({ type: 'TASK_DELETED', taskId: task });
      const after = (await told(owner)).length + (owner === user ? 0 : (await told()).length);
      expect(after - before).to.equal(2);
      await db.raw(remove);
    }
    expect(published.slice(-2).map(({ type, userId }) => `${type} ${userId}`)).to.deep.equal([
      `TASK_DELETED ${user}`,
      `TASK_CREATED ${stranger}`,
    ]);
    await expectTrue(stranger);
  });

  it('tells of another task that a trigger writes', async () => {
    const other = await newTask();
    await trigger({
      does: `IF NEW.task_id <> ${other} THEN
        UPDATE tasks SET task_error = NEW.task_status WHERE task_id = ${other}; NEW.tx_url := 'x'; END IF;`,
    });
    await tasks.updateTaskNumberAndStatus(id, null, 'running');
    expect((await told()).slice(1)).to.deep.equal([
      { type: 'TASK_UPDATED', taskId: id, task_status: 'running', tx_url: 'x' },
      { type: 'TASK_UPDATED', taskId: other, task_error: 'running' },
    ]);
    await expectTrue();
  });

  it("tells of writes in somebody's transaction", async () => {
    const other = await newTask();
    await trigger({
      does: `NEW.task_status := upper(NEW.task_status); NEW.task_number := coalesce(OLD.task_number, 0) + 1;`,
    });
    await db.transaction(async (transaction) => {
      const within = tasks.within(transaction);
      await within.updateTaskNumberAndStatus(id, null, 'a');
      await transaction.raw(`UPDATE tasks SET task_error = 'sql' WHERE task_id = ?`, [id]);
      expect(await within.updateTaskNumberAndStatus(id, null, 'b')).to.include({ task_status: 'B' });
      await within.updateManyTaskData(user, [
        { kind: 'fee', task_id: other, fee: 1 },
        { kind: 'fee', task_id: id, fee: 2 },
      ]);
    });
    await db.transaction(async (transaction) => {
      const client = new TaskRepository({
        query: async (text, bindings) => {
          const sql = text.replace(/\$\d+/g, '?');
          return (await transaction.raw(sql, bindings as Knex.RawBinding[])).rows;
        },
      });
      await client.updateTaskNumberAndStatus(id, null, 'c');
    });
    await db
      .transaction(async (transaction) => {
        await tasks.within(transaction).updateTaskFee(id, 9);
        throw new Error('rolled back');
      })
      .catch(() => {});
    expect(
      (await told()).slice(1).map(({ type, taskId, task_number }) => `${type} ${taskId} ${task_number}`),
    ).to.deep.equal([
      `TASK_STATUS_CHANGED ${id} 1`,
      `TASK_UPDATED ${id} 2`,
      `TASK_STATUS_CHANGED ${id} 3`,
      `TASK_UPDATED ${other} 1`,
      `TASK_UPDATED ${id} 4`,
      `TASK_STATUS_CHANGED ${id} 5`,
    ]);
    await expectTrue();
  });

  it('answers a write that is asked for again as the first one was answered', async () => {
    await trigger({ does: 'NEW.task_status := upper(NEW.task_status);' });
    const first = await tasks.updateTaskNumberAndStatus(id, null, 'failed', null, { idempotencyKey: `k${id}` });
    const other = new TaskRepository(db);
    for (const repository of [tasks, other]) {
      const again = repository.updateTaskNumberAndStatus(id, null, 'failed', null, { idempotencyKey: `k${id}` });
      expect(await again).to.deep.equal(first);
    }
    expect(first).to.include({ seq: 2, task_status: 'FAILED' });
    expect(await outcomeOf(other.updateTaskFee(id, 1, { idempotencyKey: `k${id}` }))).to.equal('IDEMPOTENCY_MISMATCH');
    expect(await told()).to.have.length(1);
    expect(published).to.have.length(1);
    await expectTrue();
  });

  it('tells true old values among writers that wait for each other', async () => {
    await trigger({
      does: `NEW.task_number := coalesce(OLD.task_number, 0) + 1; NEW.task_status := upper(NEW.task_status);`,
    });
    await Promise.all(
      Array.from({ length: 40 }, (_, count) =>
        count % 4 === 0
          ? db.raw('UPDATE tasks SET task_status = ? WHERE task_id = ?', [`sql${count}`, id])
          : tasks.updateTaskNumberAndStatus(id, null, `ours${count}`),
      ),
    );
    expect((await told()).map(({ task_number }) => task_number)).to.deep.equal(
      Array.from({ length: 40 }, (_, n) => n + 1),
    );
    await expectTrue();
  });

  it('tells the truth while triggers come and go', async function () {
    this.timeout(20_000);
    let going = true;
    const writing = Array.from({ length: 3 }, async (_, writer) => {
      for (let count = 0; going; count += 1) {
        await tasks.updateTaskNumberAndStatus(id, null, `s${writer}-${count}`);
        await tasks.updateManyTaskData(user, [{ kind: 'fee', task_id: id, fee: count }]);
      }
    });
    for (let round = 0; round < 10; round += 1) {
      await db.raw(`${remove};
        CREATE FUNCTION foreign_trigger() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN NEW.tx_url := '${round}'; RETURN NEW; END $$;
        CREATE TRIGGER a_trigger BEFORE UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION foreign_trigger()`);
      await new Promise((resolve) => setTimeout(resolve, 20));
      await db.raw('ALTER TABLE tasks DISABLE TRIGGER a_trigger');
      await new Promise((resolve) => setTimeout(resolve, 20));
      tasks = new TaskRepository(db, { publish: (events) => published.push(...events) });
    }
    going = false;
    await Promise.all(writing);
    expect((await read()).length).to.be.at.least(20);
    await expectTrue();
  });

  it('tells nothing of silent writes, and answers them with the task that was written', async () => {
    const silent = new TaskRepository(db, undefined, { capture: 'off' });
    await trigger({ does: 'NEW.task_status := upper(NEW.task_status);' });
    // One that writes nothing does not make the next ones be observed.
    expect(await outcomeOf(silent.updateTaskFee(9_999_999, 1))).to.equal('NOT_FOUND');
    expect(await silent.updateTaskNumberAndStatus(id, null, 'a')).to.include({ task_id: id });
    expect(await silent.updateManyTaskData(user, [{ kind: 'fee', task_id: id, fee: 1 }])).to.deep.equal([
      { task_id: id, job_id: job, user_id: user },
    ]);
    expect(await told()).to.deep.equal([]);
  });

  it('refuses an event that would be too large', async () => {
    await trigger({ does: `NEW.proof_of_task := repeat('x', 1000000);` });
    expect(await outcomeOf(tasks.updateTaskFee(id, 1))).to.have.property('code', '54000');
    expect(await told()).to.deep.equal([]);
    await expectTrue();
  });
}
