import { expect } from 'chai';
import type { Knex } from 'knex';
import { connectDatabase } from '../../src/database/connect-database.js';
import { TaskwireError } from '../../src/protocol/errors.js';
import type { TaskEvent } from '../../src/protocol/events.js';
import type { Keyed } from '../../src/repository/batch-writes.js';
import { EventLog } from '../../src/repository/event-log.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import type { TaskUpdate } from '../../src/repository/task-patch.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { cleanWriteKeys } from '../../src/repository/write-keys.js';
import type { SuiteDatabase } from './repository.suite.js';

const codeOf = (work: Promise<unknown>): Promise<unknown> =>
  work.then(
    () => 'written',
    (error) => (error instanceof TaskwireError ? error.code : error),
  );

/** A write that is asked for again under its key is the first one. */
export function onceSuite(open: () => Promise<SuiteDatabase>): void {
  let database: SuiteDatabase;
  let db: Knex;
  let log: EventLog;
  let tasks: TaskRepository;
  let published: TaskEvent[];
  let base: number;
  let task: number;
  let keys = 0;

  before(async function () {
    this.timeout(60_000);
    database = await open();
    db = connectDatabase({ url: database.url, pool: 8 });
    log = new EventLog(db);
    tasks = new TaskRepository(db, { publish: (events) => published.push(...events) });
    await new JobRepository(db).create({ job_id: 1, user_id: 'owner' });
  });

  after(async () => {
    await db?.destroy();
    await database?.stop();
  });

  beforeEach(async () => {
    published = [];
    const made = await tasks.createTaskData({ job_id: 1, task_definition_id: 1 });
    task = made.task_id;
    base = made.seq!;
    published = [];
  });

  const newKey = (): { idempotencyKey: string } => {
    keys += 1;
    return { idempotencyKey: `key ${keys}` };
  };
  const head = async (): Promise<number> => (await log.state('owner'))!.seq - base;

  it('answers what the first one answered', async () => {
    const key = newKey();
    const first = await tasks.updateTaskFee(task, 5, key);
    await tasks.updateTaskFee(task, 6);
    expect(await tasks.updateTaskFee(task, 5, key)).to.deep.equal(first);
    expect(await new TaskRepository(db).updateTaskFee(task, 5, key)).to.deep.equal(first);
    expect((await tasks.getTask(task))!.task_opx_cost).to.equal(6);
    const create = newKey();
    const made = await tasks.createTaskData({ job_id: 1, task_definition_id: 2 }, create);
    expect(await tasks.createTaskData({ job_id: '1', task_definition_id: 2, is_imua: false }, create)).to.deep.equal(
      made,
    );
    const remove = newKey();
    const gone = await tasks.deleteTaskData(made.task_id, remove);
    expect(await tasks.deleteTaskData(made.task_id, remove)).to.deep.equal(gone);
    expect(await head()).to.equal(4);
    expect(published).to.have.length(4);
  });

  it('is refused when it is another one', async () => {
    const key = newKey();
    await tasks.updateTaskNumberAndStatus(task, 1, 'processing', '0x', key);
    const others: Array<Promise<unknown>> = [
      tasks.updateTaskNumberAndStatus(task, 1, 'processing', '0y', key),
      tasks.updateTaskNumberAndStatus(task, 2, 'processing', '0x', key),
      tasks.updateTaskFee(task, 1, key),
      tasks.deleteTaskData(task, key),
      tasks.createTaskData({ job_id: 1, task_definition_id: 1 }, key),
    ];
    expect(await Promise.all(others.map(codeOf))).to.deep.equal(Array(5).fill('IDEMPOTENCY_MISMATCH'));
    expect(await codeOf(tasks.updateTaskFee(task, 1, { idempotencyKey: '' }))).to.equal('INVALID_REQUEST');
    expect(await head()).to.equal(1);
  });

  it('is made once among many at the same time', async () => {
    const [update, create] = [newKey(), newKey()];
    const writes = await Promise.all(Array.from({ length: 16 }, () => tasks.updateTaskFee(task, 5, update)));
    const made = await Promise.all(
      Array.from({ length: 16 }, () => tasks.createTaskData({ job_id: 1, task_definition_id: 2 }, create)),
    );
    expect(new Set(writes.map(({ seq }) => seq)).size).to.equal(1);
    expect(new Set(made.map(({ task_id }) => task_id)).size).to.equal(1);
    expect(await head()).to.equal(2);
    expect(published).to.have.length(2);
  });

  it('does not count when it was not made', async () => {
    const key = newKey();
    expect(await codeOf(tasks.updateTaskFee(987_654_321, 1, key))).to.equal('NOT_FOUND');
    await db
      .transaction(async (trx) => {
        await tasks.within(trx).updateTaskFee(task, 1, key);
        throw new Error('rolled back');
      })
      .catch(() => {});
    expect(await head()).to.equal(0);
    await tasks.updateTaskFee(task, 2, key);
    expect(await head()).to.equal(1);
  });

  it('is each item of a batch that has a key', async () => {
    const [one, two] = [newKey().idempotencyKey, newKey().idempotencyKey];
    const updates = (...fees: ReadonlyArray<readonly [number, string?]>): Array<Keyed<TaskUpdate>> =>
      fees.map(([fee, idempotency_key]) => ({ kind: 'fee', task_id: task, fee, idempotency_key }));
    const seqs = async (items: Array<Keyed<TaskUpdate>>): Promise<unknown[]> =>
      (await tasks.updateManyTaskData('owner', items)).map((outcome) =>
        outcome instanceof TaskwireError ? outcome.code : outcome.seq! - base,
      );
    expect(await seqs(updates([1, one], [2], [3, two], [1, one], [4, two]))).to.deep.equal([
      1,
      2,
      3,
      1,
      'IDEMPOTENCY_MISMATCH',
    ]);
    expect(await seqs(updates([1, one], [3, two], [5]))).to.deep.equal([1, 3, 4]);
    expect(await codeOf(tasks.updateTaskFee(task, 1, { idempotencyKey: one }))).to.equal('written');
    const key = newKey().idempotencyKey;
    const create = () =>
      tasks.createManyTaskData('owner', [
        { job_id: 1, task_definition_id: 1 },
        { job_id: 1, task_definition_id: 2, idempotency_key: key },
      ]);
    const both = await Promise.all([create(), create(), create()]);
    expect(new Set(both.map(([, made]) => (made as { task_id: number }).task_id)).size).to.equal(1);
    expect(await head()).to.equal(4 + 3 + 1);
  });

  it('is forgotten after a day, and not before', async () => {
    const [old, young] = [newKey(), newKey()];
    await tasks.updateTaskFee(task, 1, old);
    await db.raw(`UPDATE write_keys SET created_at = now() - interval '25 hours'`);
    await tasks.updateTaskFee(task, 1, young);
    expect(await cleanWriteKeys(db)).to.be.greaterThan(0);
    const { rows } = await db.raw('SELECT count(*)::int AS kept FROM write_keys');
    expect(rows).to.deep.equal([{ kept: 1 }]);
    expect((await tasks.updateTaskFee(task, 1, young)).seq).to.equal(base + 2);
    expect((await tasks.updateTaskFee(task, 1, old)).seq).to.equal(base + 3);
  });
}
