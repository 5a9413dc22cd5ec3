import { expect } from 'chai';
import type { Knex } from 'knex';
import { connectDatabase } from '../../src/database/connect-database.js';
import { TaskwireError } from '../../src/protocol/errors.js';
import { envelopeText, type TaskEvent } from '../../src/protocol/events.js';
import type { BatchOutcome } from '../../src/repository/batch-writes.js';
import { EventLog } from '../../src/repository/event-log.js';
import type { CreateTaskInput } from '../../src/repository/inputs.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import type { TaskUpdate } from '../../src/repository/task-patch.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { expectChained, type SuiteDatabase } from './repository.suite.js';

const OWNER = 'owner';
const STRANGER = 'stranger';

/** The position of what was written, the code of what was refused. */
const summary = (outcomes: readonly BatchOutcome[]): unknown[] =>
  outcomes.map((outcome) => (outcome instanceof TaskwireError ? outcome.code : (outcome.seq ?? 'written')));

/** Batches of one owner, on whatever database. */
export function batchSuite(open: () => Promise<SuiteDatabase>): void {
  let database: SuiteDatabase;
  let db: Knex;
  let log: EventLog;
  let tasks: TaskRepository;
  let plain: TaskRepository;
  let published: TaskEvent[][];
  let base: number;
  let strangersTask: number;

  before(async function () {
    this.timeout(60_000);
    database = await open();
    db = connectDatabase({ url: database.url, pool: 8 });
    log = new EventLog(db);
    tasks = new TaskRepository(db, { publish: (events) => published.push([...events]) });
    plain = new TaskRepository(db, undefined, { capture: 'off' });
    const jobs = new JobRepository(db);
    await jobs.create({ job_id: 1, user_id: OWNER });
    await jobs.create({ job_id: 2, user_id: OWNER });
    await jobs.create({ job_id: 3, user_id: STRANGER });
    strangersTask = (await plain.createTaskData({ job_id: 3, task_definition_id: 1 })).task_id;
  });

  after(async () => {
    await db?.destroy();
    await database?.stop();
  });

  beforeEach(async () => {
    published = [];
    base = (await log.state(OWNER))!.seq;
  });

  const create = async (count: number): Promise<number[]> => {
    const made = await plain.createManyTaskData(
      OWNER,
      Array.from({ length: count }, () => ({ job_id: 1, task_definition_id: 1 })),
    );
    return made.map((outcome) => (outcome as { task_id: number }).task_id);
  };
  const logged = async (): Promise<TaskEvent[]> => {
    const rooms = [{ kind: 'user', id: OWNER, after: base }] as const;
    return [...(await log.read({ userId: OWNER, rooms, limit: 5_000 })).events];
  };

  it('create tasks in order, with one publication in order', async () => {
    const outcomes = await tasks.createManyTaskData(OWNER, [
      { job_id: 2, task_definition_id: 10 },
      { job_id: '1', task_definition_id: 11, is_imua: true },
      { job_id: 2, task_definition_id: 12 },
    ]);
    expect(summary(outcomes)).to.deep.equal([base + 1, base + 2, base + 3]);
    expect(published).to.have.length(1);
    expect(published[0]!.map(envelopeText)).to.deep.equal((await logged()).map(envelopeText));
    for (const [index, event] of published[0]!.entries()) {
      const outcome = outcomes[index] as { task_id: number; job_id: string };
      expect(event).to.include({ type: 'TASK_CREATED', taskId: outcome.task_id, jobId: outcome.job_id });
      const row = (await tasks.getTask(outcome.task_id))!;
      expect(row).to.include({ task_definition_id: 10 + index, is_imua: index === 1, job_id: index === 1 ? '1' : '2' });
      expect(JSON.parse(event.changes)).to.deep.equal(row);
    }
  });

  it('update tasks exactly as single writes do', async () => {
    const [one, other] = (await create(2)) as [number, number];
    const updates = (task_id: number): TaskUpdate[] => [
      { kind: 'fee', task_id, fee: 0.1 },
      { kind: 'status', task_id, task_status: 'processing', task_number: 4 },
      {
        kind: 'execution',
        task_id,
        task_performer_id: 7,
        execution_timestamp: '2024-01-01T00:00:00+01:00',
        execution_tx_hash: '0xabc',
        proof_of_task: 'ü"\\\u{1F600}',
        converted_arguments: { b: [1e21, null], a: -0.5 },
        task_error: null,
      },
      { kind: 'attestation', task_id, task_attester_ids: [3, 1], is_successful: false, tp_signature: '' },
      { kind: 'fee', task_id, fee: 2 },
    ];
    const [fee, status, execution, attestation, again] = updates(one) as [
      TaskUpdate & { fee: number },
      TaskUpdate & { task_status: string; task_number: number },
      Extract<TaskUpdate, { kind: 'execution' }>,
      Extract<TaskUpdate, { kind: 'attestation' }>,
      TaskUpdate & { fee: number },
    ];
    await tasks.updateTaskFee(one, fee.fee);
    await tasks.updateTaskNumberAndStatus(one, status.task_number, status.task_status);
    await tasks.updateTaskExecutionData(one, execution);
    await tasks.updateTaskAttestationData(one, attestation);
    await tasks.updateTaskFee(one, again.fee);
    const singles = published.flat();
    published = [];
    const outcomes = await tasks.updateManyTaskData(OWNER, updates(other));
    const seqs = outcomes.map((_, index) => base + 6 + index);
    expect(summary(outcomes)).to.deep.equal(seqs);
    const text = (events: readonly TaskEvent[], id: number) =>
      events.map(({ type, changes }) => `${type} ${changes.replace(`"task_id": ${id}`, '"task_id": 0')}`);
    expect(text(published.flat(), other)).to.deep.equal(text(singles, one));
    const row = async (id: number) => ({ ...(await tasks.getTask(id)), task_id: 0, created_at: '' });
    expect(await row(other)).to.deep.equal(await row(one));
    expect((await logged()).map(envelopeText)).to.deep.equal([...singles, ...published.flat()].map(envelopeText));
  });

  it('change what each update names, and tell what it replaced, whatever its neighbours name', async () => {
    const ids = await create(3);
    const [one, two, three] = ids as [number, number, number];
    const first = await tasks.updateManyTaskData(
      OWNER,
      ids.map((task_id, index) => ({ kind: 'status', task_id, task_status: `s${index}`, task_number: index })),
    );
    const second = await tasks.updateManyTaskData(OWNER, [
      { kind: 'fee', task_id: one, fee: 1 },
      { kind: 'execution', task_id: two, task_opx_cost: 2, task_error: null },
      { kind: 'status', task_id: three, task_status: 'done' },
    ]);
    const third = await tasks.updateManyTaskData(
      OWNER,
      ids.map((task_id) => ({ kind: 'fee', task_id, fee: 9 })),
    );
    expect(summary([...first, ...second, ...third])).to.deep.equal(Array.from({ length: 9 }, (_, n) => base + n + 1));
    const said = published.flat().map(({ changes }) => {
      const { old_status, new_status, old_fee, new_fee } = JSON.parse(changes);
      return [old_status, new_status, old_fee, new_fee];
    });
    const none = undefined;
    expect(said).to.deep.equal([
      ...[0, 1, 2].map((index) => ['pending', `s${index}`, none, none]),
      [none, none, null, 1],
      [none, none, none, none],
      ['s2', 'done', none, none],
      ...[1, 2, null].map((old) => [none, none, old, 9]),
    ]);
    const rows = await Promise.all(ids.map((id) => tasks.getTask(id)));
    expect(rows.map((row) => [row?.task_status, row?.task_number, row?.task_opx_cost])).to.deep.equal([
      ['s0', 0, 9],
      ['s1', 1, 9],
      ['done', 2, 9],
    ]);
  });

  it('write what is right and say what is wrong', async () => {
    const [one, other] = (await create(2)) as [number, number];
    const outcomes = await tasks.updateManyTaskData(OWNER, [
      { kind: 'fee', task_id: one, fee: 1 },
      { kind: 'fee', task_id: strangersTask, fee: 1 },
      { kind: 'fee', task_id: 999_999_999, fee: 1 },
      { kind: 'fee', task_id: one, fee: Number.NaN },
      { kind: 'gift', task_id: one } as unknown as TaskUpdate,
      { kind: 'fee', task_id: other, fee: 2 },
    ]);
    const refused = ['NOT_FOUND', 'NOT_FOUND', 'INVALID_REQUEST', 'INVALID_REQUEST'];
    expect(summary(outcomes)).to.deep.equal([base + 1, ...refused, base + 2]);
    const made = await tasks.createManyTaskData(OWNER, [
      { job_id: 3, task_definition_id: 1 },
      { job_id: 'x', task_definition_id: 1 },
      { job_id: 31_337, task_definition_id: 1 },
      { job_id: 1, task_definition_id: 1 },
    ]);
    expect(summary(made)).to.deep.equal(['NOT_FOUND', 'INVALID_REQUEST', 'NOT_FOUND', base + 3]);
    expect(await log.state(STRANGER)).to.include({ seq: 0 });
    expect((await logged()).map(({ seq }) => seq - base)).to.deep.equal([1, 2, 3]);
  });

  it('of which nothing can be written change nothing', async () => {
    published = [];
    expect(await tasks.updateManyTaskData(OWNER, [])).to.deep.equal([]);
    const outcomes = await tasks.updateManyTaskData(OWNER, [{ kind: 'fee', task_id: strangersTask, fee: 1 }]);
    expect(summary(outcomes)).to.deep.equal(['NOT_FOUND']);
    expect(await log.state(OWNER)).to.include({ seq: base });
    expect(published).to.deep.equal([]);
    const many: CreateTaskInput[] = Array.from({ length: 501 }, () => ({ job_id: 1, task_definition_id: 1 }));
    const refusal = await tasks.createManyTaskData(OWNER, many).catch((error: unknown) => error);
    expect(refusal).to.include({ code: 'INVALID_REQUEST' });
  });

  it('write plainly where there are to be no events', async () => {
    const [one, other] = (await create(2)) as [number, number];
    const outcomes = await plain.updateManyTaskData(OWNER, [
      { kind: 'fee', task_id: one, fee: 5 },
      { kind: 'fee', task_id: strangersTask, fee: 5 },
      { kind: 'status', task_id: other, task_status: 'done' },
    ]);
    expect(summary(outcomes)).to.deep.equal(['written', 'NOT_FOUND', 'written']);
    expect(await tasks.getTask(one)).to.include({ task_opx_cost: 5 });
    expect(await tasks.getTask(other)).to.include({ task_status: 'done' });
    expect(await log.state(OWNER)).to.include({ seq: base });
  });

  it('keep the stream gapless and true among single writes', async function () {
    this.timeout(30_000);
    const ids = await create(4);
    const batch = (n: number) =>
      tasks.updateManyTaskData(
        OWNER,
        ids.flatMap((task_id, index): TaskUpdate[] => [
          { kind: 'fee', task_id, fee: n * 10 + index },
          { kind: 'status', task_id, task_status: `s_${n}_${index}` },
        ]),
      );
    const writes: Promise<unknown>[] = [];
    for (let n = 0; n < 20; n += 1) {
      writes.push(batch(n), tasks.updateTaskFee(ids[n % 4]!, n + 0.5));
    }
    await Promise.all(writes);
    const events = await logged();
    expect(events.map(({ seq }) => seq)).to.deep.equal(Array.from({ length: 180 }, (_, n) => base + n + 1));
    expectChained(events);
    const times = events.map(({ timestamp }) => timestamp);
    expect(times).to.deep.equal([...times].sort());
  });
}
