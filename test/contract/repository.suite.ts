import { expect } from 'chai';
import type { Knex } from 'knex';
import { connectDatabase } from '../../src/database/connect-database.js';
import { canBeApiKey } from '../../src/protocol/api-key-form.js';
import { TaskwireError } from '../../src/protocol/errors.js';
import { envelopeText, type TaskEvent } from '../../src/protocol/events.js';
import { jobRoom, parseRoom, taskRoom, userRoom } from '../../src/protocol/rooms.js';
import type { TaskRow } from '../../src/protocol/tasks.js';
import { ApiKeyRepository, hashApiKey } from '../../src/repository/api-key-repository.js';
import { EventLog } from '../../src/repository/event-log.js';
import { EventRetention } from '../../src/repository/event-retention.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import type { RoomCursor } from '../../src/repository/log.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { migrate } from '../../src/schema/migrate.js';
import { closeTables, dropExpired, expireTables } from '../support/event-tables.js';

/** The database that the suite runs over. `url` names a migrated one that nobody else uses. */
export interface SuiteDatabase {
  readonly url: string;
  stop(): Promise<void>;
}

/** The largest job id: 78 digits. */
const HUGE_JOB = '9'.repeat(78);

async function refusal(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    return error instanceof TaskwireError ? error.code : `no TaskwireError: ${error}`;
  }
  return 'no refusal';
}

const cursor = (name: string, after = 0): RoomCursor => {
  const { kind, id } = parseRoom(name);
  return { kind, id, after };
};

/** What every database must do for the repositories, whatever it is. */
export function repositorySuite(open: () => Promise<SuiteDatabase>): void {
  let database: SuiteDatabase;
  let db: Knex;
  let log: EventLog;
  let jobs: JobRepository;
  let tasks: TaskRepository;
  let published: TaskEvent[];
  let users = 0;
  let user: string;
  let job: string;

  before(async function () {
    this.timeout(60_000);
    database = await open();
    db = connectDatabase({ url: database.url, pool: 8 });
    log = new EventLog(db);
    jobs = new JobRepository(db);
    tasks = new TaskRepository(db, { publish: (events) => published.push(...events) });
  });

  after(async () => {
    await db?.destroy();
    await database?.stop();
  });

  beforeEach(async () => {
    users += 1;
    user = `user_${users}`;
    job = String(users);
    published = [];
    await jobs.create({ job_id: job, user_id: user });
  });

  const task = async (): Promise<number> =>
    (await tasks.createTaskData({ job_id: job, task_definition_id: 1, is_imua: false })).task_id;
  const changes = (): Record<string, unknown> => JSON.parse(published.at(-1)!.changes);
  const history = async (...rooms: RoomCursor[]): Promise<TaskEvent[]> => [
    ...(await log.read({ userId: user, rooms, limit: 1_000 })).events,
  ];
  const head = async (): Promise<number> => (await log.state(user))!.seq;

  describe('writes', () => {
    it('create a task and say so', async () => {
      const made = await tasks.createTaskData({ job_id: job, task_definition_id: 789, is_imua: true });
      const row = (await tasks.getTask(made.task_id))!;
      expect(row).to.include({ job_id: job, user_id: user, task_definition_id: 789, is_imua: true });
      expect(row).to.include({ task_status: 'pending', task_opx_cost: null, is_accepted: null });
      expect(row.created_at).to.match(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
      expect(published).to.have.length(1);
      expect(published[0]).to.include({ type: 'TASK_CREATED', seq: 1, userId: user, jobId: job, taskId: made.task_id });
      expect(changes()).to.deep.equal(row);
    });

    it('record an execution: the given fields and no others', async () => {
      const id = await task();
      const given = {
        task_performer_id: 7,
        execution_timestamp: '2024-01-01T05:30:00.123456789+05:30',
        execution_tx_hash: '0xabc',
        proof_of_task: 'Beweis „äöü“ \u{1F600} "\\',
        task_opx_cost: 0.1,
        converted_arguments: [{ a: [1, null, 'x'] }],
      };
      await tasks.updateTaskExecutionData(id, given);
      const stored = { ...given, execution_timestamp: '2024-01-01T00:00:00.123Z' };
      expect(await tasks.getTask(id)).to.deep.include(stored);
      expect(published.at(-1)!.type).to.equal('TASK_UPDATED');
      expect(changes()).to.deep.equal({ task_id: id, job_id: job, user_id: user, ...stored });

      await tasks.updateTaskExecutionData(id, { task_status: 'failed', task_error: 'out of gas', tx_url: null });
      expect(changes()).to.deep.equal({
        task_id: id,
        job_id: job,
        user_id: user,
        task_status: 'failed',
        task_error: 'out of gas',
        tx_url: null,
      });
      expect(await tasks.getTask(id)).to.deep.include({ ...stored, task_status: 'failed', task_error: 'out of gas' });
    });

    it('record an attestation', async () => {
      const id = await task();
      const given = {
        task_number: 9_007_199_254_740_991,
        task_attester_ids: [3, 1, 2],
        tp_signature: 'tp==',
        ta_signature: 'ta==',
        task_submission_tx_hash: '0xdef',
        is_successful: true,
      };
      await tasks.updateTaskAttestationData(id, given);
      expect(await tasks.getTask(id)).to.deep.include({ ...given, is_accepted: true });
      expect(published.at(-1)!.type).to.equal('TASK_UPDATED');
      expect(changes()).to.deep.equal({ task_id: id, job_id: job, user_id: user, ...given, is_accepted: true });
    });

    it('tell the true old fee and old status', async () => {
      const id = await task();
      await tasks.updateTaskFee(id, 1.5);
      expect(published.at(-1)!.type).to.equal('TASK_FEE_UPDATED');
      expect(changes()).to.deep.include({ old_fee: null, new_fee: 1.5, task_opx_cost: 1.5 });
      await tasks.updateTaskFee(id, 1e-7);
      expect(changes()).to.deep.include({ old_fee: 1.5, new_fee: 1e-7, task_opx_cost: 1e-7 });

      await tasks.updateTaskNumberAndStatus(id, 12, 'processing', '0x1');
      expect(published.at(-1)!.type).to.equal('TASK_STATUS_CHANGED');
      expect(changes()).to.deep.equal({
        task_id: id,
        job_id: job,
        user_id: user,
        old_status: 'pending',
        new_status: 'processing',
        task_status: 'processing',
        task_number: 12,
        task_submission_tx_hash: '0x1',
      });
      await tasks.updateTaskNumberAndStatus(id, null, 'completed');
      expect(changes()).to.deep.equal({
        task_id: id,
        job_id: job,
        user_id: user,
        old_status: 'processing',
        new_status: 'completed',
        task_status: 'completed',
      });
      expect(await tasks.getTask(id)).to.include({ task_number: 12, task_submission_tx_hash: '0x1' });
    });

    it('take job ids of 78 digits', async () => {
      const owner = `${user}_huge`;
      await jobs.create({ job_id: HUGE_JOB, user_id: owner });
      expect((await jobs.get(HUGE_JOB))?.user_id).to.equal(owner);
      const { task_id } = await tasks.createTaskData({ job_id: HUGE_JOB, task_definition_id: 1, is_imua: false });
      expect((await tasks.getTasksByJob(HUGE_JOB)).map((row) => row.job_id)).to.deep.equal([HUGE_JOB]);
      expect(published.at(-1)).to.include({ jobId: HUGE_JOB, taskId: task_id, seq: 1 });
      expect((await log.ownersOf([parseRoom(jobRoom(HUGE_JOB))])).get(jobRoom(HUGE_JOB))?.userId).to.equal(owner);
    });

    it('change and log nothing when the job or task does not exist', async () => {
      await task();
      published = [];
      const none = 999_999_999;
      expect(await refusal(tasks.createTaskData({ job_id: '424242', task_definition_id: 1 }))).to.equal('NOT_FOUND');
      expect(await refusal(tasks.updateTaskExecutionData(none, { task_opx_cost: 1 }))).to.equal('NOT_FOUND');
      expect(await refusal(tasks.updateTaskAttestationData(none, { task_number: 1 }))).to.equal('NOT_FOUND');
      expect(await refusal(tasks.updateTaskFee(none, 1))).to.equal('NOT_FOUND');
      expect(await refusal(tasks.updateTaskNumberAndStatus(none, 1, 'x'))).to.equal('NOT_FOUND');
      expect(await head()).to.equal(1);
      expect(published).to.deep.equal([]);
    });

    it('refuse values that cannot be stored, and change nothing', async () => {
      const id = await task();
      const bad: Array<Promise<unknown>> = [
        tasks.createTaskData({ job_id: '-1', task_definition_id: 1 }),
        tasks.createTaskData({ job_id: '01', task_definition_id: 1 }),
        tasks.createTaskData({ job_id: `${HUGE_JOB}0`, task_definition_id: 1 }),
        tasks.createTaskData({ job_id: 2 ** 60, task_definition_id: 1 }),
        tasks.createTaskData({ job_id: job, task_definition_id: 1.5 }),
        tasks.updateTaskFee(id, Number.NaN),
        tasks.updateTaskFee(id, Number.POSITIVE_INFINITY),
        tasks.updateTaskFee(id, -0.01),
        tasks.updateTaskExecutionData(id, { task_opx_cost: -1 }),
        tasks.updateTaskExecutionData(id, { tx_url: 'x', task_number: 1 } as object),
        // Each number is five characters here and 309 in the database.
        tasks.updateTaskExecutionData(id, { converted_arguments: Array(1_000).fill(1e308) }),
        tasks.updateTaskFee(0, 1),
        tasks.updateTaskFee(2 ** 60, 1),
        tasks.updateTaskExecutionData(id, {}),
        tasks.updateTaskExecutionData(id, { proof_of_task: 'a\u0000b' }),
        tasks.updateTaskExecutionData(id, { proof_of_task: 'half \ud83d pair' }),
        tasks.updateTaskExecutionData(id, { execution_timestamp: 'yesterday' }),
        tasks.updateTaskExecutionData(id, { execution_timestamp: '0000-01-01T00:00:00Z' }),
        tasks.updateTaskExecutionData(id, { converted_arguments: ['\u0000'] }),
        tasks.updateTaskExecutionData(id, { converted_arguments: { '\udc00': 1 } }),
        tasks.updateTaskExecutionData(id, { converted_arguments: nested(40) }),
        tasks.updateTaskExecutionData(id, { converted_arguments: 'x'.repeat(70_000) }),
        tasks.updateTaskAttestationData(id, { task_attester_ids: [1, -2] }),
        tasks.updateTaskAttestationData(id, { is_successful: 'yes' as unknown as boolean }),
        tasks.updateTaskNumberAndStatus(id, 1, 'no spaces'),
      ];
      for (const [index, work] of bad.entries()) {
        expect(await refusal(work), `case ${index}`).to.equal('INVALID_REQUEST');
      }
      expect(await head()).to.equal(1);
    });

    it('publish nothing of a write whose commit fails', async () => {
      const id = await task();
      published = [];
      await db.raw(`CREATE FUNCTION fail_at_commit() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'the commit fails'; END $$`);
      // It runs when the statement is through and its transaction commits.
      await db.raw(`CREATE CONSTRAINT TRIGGER fail_at_commit AFTER UPDATE ON tasks DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION fail_at_commit()`);
      try {
        expect(await refusal(tasks.updateTaskFee(id, 5))).to.contain('the commit fails');
      } finally {
        await db.raw('DROP TRIGGER fail_at_commit ON tasks');
        await db.raw('DROP FUNCTION fail_at_commit()');
      }
      expect(published).to.deep.equal([]);
      expect(await head()).to.equal(1);
    });

    it('number the events of a stream without a gap under concurrent writers', async () => {
      const ids = await Promise.all([task(), task(), task()]);
      await Promise.all(
        Array.from({ length: 60 }, (_, n) =>
          n % 2 === 0
            ? tasks.updateTaskFee(ids[n % 3]!, n)
            : tasks.updateTaskNumberAndStatus(ids[n % 3]!, n, `status_${n}`),
        ),
      );
      const events = await history(cursor(userRoom(user)));
      expect(events.map(({ seq }) => seq)).to.deep.equal(Array.from({ length: 63 }, (_, n) => n + 1));
      expectChained(events);
    });
  });

  describe('the log', () => {
    it('returns the very text that was published', async () => {
      const id = await task();
      await tasks.updateTaskExecutionData(id, {
        proof_of_task: 'ü"\\\u2028</script>',
        task_opx_cost: 12_345.678_9,
        converted_arguments: { b: 1e21, a: [1.5, -0.25] },
      });
      await tasks.updateTaskFee(id, 1e-9);
      await tasks.updateTaskNumberAndStatus(id, 1, 'done', '0x');
      const replayed = await history(cursor(jobRoom(job)));
      expect(replayed.map(envelopeText)).to.deep.equal(published.map(envelopeText));
      for (const event of replayed) {
        expect(JSON.parse(envelopeText(event)).data.changes).to.include({ task_id: id, job_id: job, user_id: user });
      }
    });

    it('reads each room after its own position, an event of several rooms once', async () => {
      const other = String(1_000_000 + users);
      await jobs.create({ job_id: other, user_id: user });
      const a = await task();
      const b = (await tasks.createTaskData({ job_id: other, task_definition_id: 1, is_imua: false })).task_id;
      for (let n = 0; n < 3; n += 1) {
        await tasks.updateTaskFee(a, n);
        await tasks.updateTaskFee(b, n);
      }
      const seqs = async (...rooms: RoomCursor[]) => (await history(...rooms)).map(({ seq }) => seq);
      expect(await seqs(cursor(jobRoom(job)))).to.deep.equal([1, 3, 5, 7]);
      expect(await seqs(cursor(taskRoom(b), 4))).to.deep.equal([6, 8]);
      expect(await seqs(cursor(userRoom(user), 6))).to.deep.equal([7, 8]);
      expect(await seqs(cursor(jobRoom(job), 3), cursor(taskRoom(a), 1), cursor(jobRoom(other), 6))).to.deep.equal([
        3, 5, 7, 8,
      ]);
      expect(await seqs(cursor(userRoom(user), 5), cursor(jobRoom(job), 2))).to.deep.equal([3, 5, 6, 7, 8]);
      expect(await seqs()).to.deep.equal([]);
    });

    it('returns pages, and says whether they are complete', async () => {
      const id = await task();
      for (let n = 0; n < 5; n += 1) {
        await tasks.updateTaskFee(id, n);
      }
      const page = (after: number, limit: number) =>
        log.read({ userId: user, rooms: [cursor(jobRoom(job), after), cursor(taskRoom(id), after)], limit });
      const first = await page(0, 4);
      expect(first).to.include({ seq: 6, floor: 0, complete: false });
      expect(first.events.map(({ seq }) => seq)).to.deep.equal([1, 2, 3, 4]);
      const second = await page(4, 2);
      expect(second).to.include({ seq: 6, complete: true, epoch: first.epoch });
      expect(second.events.map(({ seq }) => seq)).to.deep.equal([5, 6]);
      expect(await page(6, 2)).to.deep.include({ complete: true, events: [] });
    });

    it('never returns rooms of another stream', async () => {
      await task();
      const stranger = `${user}_stranger`;
      await jobs.create({ job_id: String(2_000_000 + users), user_id: stranger });
      const page = await log.read({ userId: stranger, rooms: [cursor(jobRoom(job))], limit: 10 });
      expect(page.events).to.deep.equal([]);
      expect(await refusal(log.read({ userId: 'nobody', rooms: [], limit: 10 }))).to.equal('NOT_FOUND');
    });

    it('ends pages and snapshots at a number of bytes, after one event or task at least', async () => {
      const ids: number[] = [];
      for (let count = 0; count < 3; count += 1) {
        ids.push((await tasks.createTaskData({ job_id: job, task_definition_id: 1, is_imua: false })).task_id);
      }
      const large = 'x'.repeat(60_000);
      for (let round = 0; round < 80; round += 1) {
        const converted_arguments = [large.slice(0, 50_000)];
        await tasks.updateTaskExecutionData(ids[round % 3]!, { proof_of_task: large, converted_arguments });
      }
      const seen: number[] = [];
      let pages = 0;
      for (let after = 0, complete = false; !complete; pages += 1) {
        const page = await log.read({ userId: user, rooms: [{ kind: 'job', id: job, after }], limit: 500 });
        expect(page.events.length).to.be.greaterThan(0);
        expect(page.events.reduce((sum, { changes }) => sum + changes.length, 0)).to.be.below(5_000_000);
        seen.push(...page.events.map(({ seq }) => seq));
        after = seen.at(-1)!;
        complete = page.complete;
      }
      expect(seen).to.deep.equal(Array.from({ length: 83 }, (_, index) => index + 1));
      expect(pages).to.be.greaterThan(1);

      const whole = (await log.snapshot(parseRoom(jobRoom(job)), 10))!;
      const some = (await log.snapshot(parseRoom(jobRoom(job)), 10, 250_000))!;
      const one = (await log.snapshot(parseRoom(jobRoom(job)), 10, 1))!;
      const idsOf = ({ tasks: text }: { tasks: string }) => JSON.parse(text).map((task: TaskRow) => task.task_id);
      expect([idsOf(whole), whole.truncated]).to.deep.equal([ids, false]);
      expect([idsOf(some), some.truncated]).to.deep.equal([ids.slice(1), true]);
      expect([idsOf(one), one.truncated]).to.deep.equal([ids.slice(2), true]);
    });

    it('knows heads, and owners with the heads of their streams', async () => {
      const id = await task();
      const heads = await log.heads([user, 'nobody']);
      const state = (await log.state(user))!;
      expect([...heads]).to.deep.equal([[user, { seq: 1, epoch: state.epoch }]]);
      expect(state.epoch).to.match(/^[a-z0-9]{12}$/);
      expect(state).to.include({ seq: 1, floor: 0 });
      expect(await log.state('nobody')).to.equal(undefined);
      const names = [jobRoom(job), taskRoom(id), userRoom(user)];
      const missing = ['job:31337', 'task:999999999', 'user:nobody'];
      const owners = await log.ownersOf([...names, ...missing].map(parseRoom));
      expect([...owners.keys()].sort()).to.deep.equal([...names].sort());
      for (const owner of owners.values()) {
        expect(owner).to.deep.equal({ userId: user, head: heads.get(user) });
      }
    });

    it('gives snapshots that agree with their position', async () => {
      const ids = [await task(), await task(), await task()];
      await tasks.updateTaskNumberAndStatus(ids[1]!, 5, 'done');
      const rows = (text: string): TaskRow[] => JSON.parse(text);
      const whole = (await log.snapshot(parseRoom(jobRoom(job)), 10))!;
      expect(whole).to.include({ userId: user, seq: 4, truncated: false });
      expect(rows(whole.tasks)).to.deep.equal(await Promise.all(ids.map((id) => tasks.getTask(id))));
      expect((await log.snapshot(parseRoom(userRoom(user)), 3))!).to.include({ tasks: whole.tasks, truncated: false });
      const newest = (await log.snapshot(parseRoom(jobRoom(job)), 2))!;
      expect(newest.truncated).to.equal(true);
      expect(rows(newest.tasks).map(({ task_id }) => task_id)).to.deep.equal(ids.slice(1));
      const rest = (await log.snapshot(parseRoom(jobRoom(job)), 10, 1_000_000, newest.oldest))!;
      expect([...JSON.parse(rest.tasks), ...JSON.parse(newest.tasks)], 'the rest is below').to.deep.equal(
        JSON.parse(whole.tasks),
      );
      expect(rest.truncated).to.equal(false);
      const one = (await log.snapshot(parseRoom(taskRoom(ids[0]!)), 10))!;
      expect(rows(one.tasks).map(({ task_id }) => task_id)).to.deep.equal([ids[0]]);
      // A task's room has no lower ids than its own.
      for (const [before, tasks] of [
        [1, '[]'],
        [ids[0]!, '[]'],
        [ids[0]! + 1, one.tasks],
      ] as const) {
        const below = (await log.snapshot(parseRoom(taskRoom(ids[0]!)), 10, 1_000_000, before))!;
        expect(below, `below ${before}`).to.include({ seq: one.seq, tasks, truncated: false });
      }
      expect(await log.snapshot(parseRoom('job:31337'), 10)).to.equal(undefined);
    });

    it('gives an empty snapshot of a job without tasks', async () => {
      expect((await log.snapshot(parseRoom(jobRoom(job)), 10))!).to.include({ seq: 0, tasks: '[]', truncated: false });
    });

    it('goes on under new epochs, also of users whose stream is gone', async () => {
      const orphan = `${user}_orphan`;
      const orphansJob = String(5_000_000 + users);
      await jobs.create({ job_id: orphansJob, user_id: orphan });
      await db.raw('DELETE FROM event_streams WHERE user_id = ?', [orphan]);
      const id = await task();
      const before = (await log.state(user))!;
      const { rows } = await db.raw('SELECT count(*)::int AS users FROM users');
      expect(await log.renewEpochs()).to.equal(rows[0].users);

      const after = (await log.state(user))!;
      expect(after.epoch)
        .to.match(/^[a-z0-9]{12}$/)
        .and.not.equal(before.epoch);
      expect(after).to.include({ seq: before.seq, floor: before.floor });
      expect(await tasks.updateTaskFee(id, 1)).to.include({ seq: before.seq + 1, epoch: after.epoch });
      const { epoch } = (await log.state(orphan))!;
      expect(epoch).to.not.equal(after.epoch);
      expect(await tasks.createTaskData({ job_id: orphansJob, task_definition_id: 1 })).to.include({ seq: 1, epoch });
    });

    it('is cut into parts that are dropped as a whole, and says where each stream begins', async () => {
      const id = await task();
      const fees = async (count: number): Promise<void> => {
        for (let n = 0; n < count; n += 1) {
          await tasks.updateTaskFee(id, n);
        }
      };
      const seqs = async (name: string): Promise<number[]> => (await history(cursor(name))).map(({ seq }) => seq);
      await fees(3);
      await closeTables(db);
      await fees(3);
      await closeTables(db);
      await fees(3);
      const all = Array.from({ length: 10 }, (_, n) => n + 1);
      for (const name of [jobRoom(job), taskRoom(id), userRoom(user)]) {
        expect(await seqs(name), name).to.deep.equal(all);
      }
      expect(await log.state(user)).to.include({ seq: 10, floor: 0 });

      await expireTables(db, 1);
      expect(await dropExpired(db)).to.be.greaterThan(0);
      expect(await log.state(user)).to.include({ seq: 10, floor: 4 });
      expect(await seqs(jobRoom(job))).to.deep.equal(all.slice(4));
      await closeTables(db);
      await expireTables(db);
      expect(await dropExpired(db)).to.equal(2);
      expect(await dropExpired(db)).to.equal(0);
      expect(await log.state(user)).to.include({ seq: 10, floor: 10 });
      await fees(1);
      expect(await log.state(user)).to.include({ seq: 11, floor: 10 });
      expect(await seqs(userRoom(user))).to.deep.equal([11]);
      const { rows } = await db.raw(
        `SELECT count(*)::int AS parts FROM pg_inherits WHERE inhparent = 'task_events'::regclass`,
      );
      expect(rows[0].parts).to.equal(0);
    });

    it('is trimmed by one process at a time, and then not for a while', async () => {
      const [one, other] = [new EventRetention(db), new EventRetention(db)];
      await tasks.updateTaskFee(await task(), 1);
      await closeTables(db);
      await expireTables(db);
      await db.raw(`UPDATE leases SET holder = 'another process', until = now() + interval '1 minute'`);
      const statements: string[] = [];
      const note = ({ sql }: { sql: string }): unknown => statements.push(sql);
      db.on('query', note);
      expect(await one.trim(72)).to.equal(0);
      db.removeListener('query', note);
      expect(statements, 'one look').to.have.length(1);

      await db.raw(`UPDATE leases SET until = now() - interval '1 second'`);
      expect(await one.trim(72), 'after the other one died').to.equal(1);
      await tasks.updateTaskFee(await task(), 1);
      await db.raw(
        `UPDATE event_tables SET opened_at = now() - interval '1 day', closed_at = NULL WHERE closed_at IS NULL`,
      );
      expect(await other.trim(72), 'when all was looked at just now').to.equal(0);
      const tables = (await db.raw('SELECT count(*)::int AS count FROM event_tables')).rows[0].count;
      await db.raw('UPDATE leases SET until = now()');
      await other.trim(72);
      expect((await db.raw('SELECT count(*)::int AS count FROM event_tables')).rows[0].count).to.equal(tables + 1);
      await db.raw('UPDATE leases SET until = now()');
    });

    it('leaves the table open while nothing is in it', async () => {
      await closeTables(db);
      const open = async (): Promise<number> =>
        (await db.raw('SELECT max(id) AS id FROM event_tables WHERE closed_at IS NULL')).rows[0].id;
      const before = await open();
      await closeTables(db);
      expect(await open()).to.equal(before);
    });
  });

  describe('reads of tasks', () => {
    it('return a job page by page', async () => {
      const ids = [await task(), await task(), await task()];
      const page = async (options: { after?: number; limit?: number }) =>
        (await tasks.getTasksByJob(job, options)).map(({ task_id }) => task_id);
      expect(await page({})).to.deep.equal(ids);
      expect(await page({ limit: 2 })).to.deep.equal(ids.slice(0, 2));
      expect(await page({ after: ids[1]! })).to.deep.equal(ids.slice(2));
      await jobs.create({ job_id: `${job}000`, user_id: user });
      for (const name of [jobRoom(job), userRoom(user)]) {
        const bounded = async (after: number, limit: number, bytes: number) => {
          const found = (await tasks.getTaskPage(parseRoom(name), { after, limit, bytes }))!;
          expect(found).to.include({ userId: user, seq: 3, epoch: (await log.state(user))!.epoch });
          const rows = JSON.parse(found.tasks) as TaskRow[];
          expect(found.last).to.equal(rows.at(-1)?.task_id);
          return [rows.map((row) => row.task_id), found.more];
        };
        expect(await bounded(0, 2, 1_000_000)).to.deep.equal([ids.slice(0, 2), true]);
        expect(await bounded(0, 3, 1_000_000)).to.deep.equal([ids, false]);
        // One at least, however large it is.
        expect(await bounded(0, 3, 1)).to.deep.equal([ids.slice(0, 1), true]);
        expect(await bounded(ids[1]!, 3, 1)).to.deep.equal([ids.slice(2), false]);
        expect(await bounded(ids[2]!, 3, 1)).to.deep.equal([[], false]);
      }
      expect(await tasks.getTaskPage(parseRoom(jobRoom('31337')), { after: 0, limit: 1, bytes: 1 })).to.equal(
        undefined,
      );
      const { task: json, ...position } = (await tasks.getPositionedTask(ids[0]!))!;
      expect(JSON.parse(json)).to.deep.equal(await tasks.getTask(ids[0]!));
      expect(position).to.deep.equal({ userId: user, seq: 3, epoch: (await log.state(user))!.epoch });
      expect(await tasks.getTask(999_999_999)).to.equal(undefined);
      expect(await tasks.getTasksByJob('31337')).to.deep.equal([]);
    });
  });

  describe('jobs', () => {
    it('exist once, and so do their owners', async () => {
      expect(await refusal(jobs.create({ job_id: job, user_id: `${user}_other` }))).to.equal('OWNER_MISMATCH');
      expect(await refusal(jobs.create({ job_id: job, user_id: user }))).to.equal('ALREADY_EXISTS');
      expect(await refusal(jobs.create({ job_id: job, user_id: 'two words' }))).to.equal('INVALID_REQUEST');
      const before = (await log.state(user))!.epoch;
      const made = await jobs.create({ job_id: 3_000_000 + users, user_id: user });
      expect(made).to.include({ job_id: String(3_000_000 + users), user_id: user });
      expect((await log.state(user))!.epoch).to.equal(before);
      expect(await jobs.get('31337')).to.equal(undefined);
    });

    it('of a new owner may be created at the same time', async () => {
      const owner = `${user}_new`;
      await Promise.all(
        Array.from({ length: 8 }, (_, n) => jobs.create({ job_id: 4_000_000 + users * 10 + n, user_id: owner })),
      );
      expect(await log.state(owner)).to.include({ seq: 0, floor: 0 });
    });
  });

  describe('API keys', () => {
    it('are shown once and kept as a hash', async () => {
      const keys = new ApiKeyRepository(db);
      const before = await keys.count();
      const { key, record } = await keys.create({ owner: user, role: 'service', rate_limit: 5, name: 'keeper' });
      expect(key)
        .to.match(/^tw_[\w-]{49}$/)
        .and.satisfy(canBeApiKey);
      expect(record).to.include({ owner: user, role: 'service', rate_limit: 5, active: true, last_used_at: null });
      expect(key.startsWith(record.prefix)).to.equal(true);
      expect(await keys.findByHash(hashApiKey(key))).to.deep.equal(record);
      expect(await keys.findByHash(hashApiKey(`${key}x`))).to.equal(undefined);
      expect(await keys.count()).to.equal(before + 1);
      const { rows } = await db.raw('SELECT api_keys::text AS text FROM api_keys');
      expect(JSON.stringify(rows)).to.not.include(key);
    });

    it('make their owner known, so that the owner can be watched before the first job', async () => {
      const keys = new ApiKeyRepository(db);
      await keys.create({ owner: `${user}_fresh` });
      expect(await log.state(`${user}_fresh`)).to.include({ seq: 0 });
    });

    it('are disabled for good, and remember their last use', async () => {
      const keys = new ApiKeyRepository(db);
      const { key, record } = await keys.create({ owner: user });
      await keys.touch(new Map([[record.key_id, new Date('2024-05-01T00:00:00.000Z')]]));
      await keys.touch(
        new Map([
          [record.key_id, new Date('2024-04-01T00:00:00.000Z')],
          ['unknown', new Date()],
        ]),
      );
      await keys.touch(new Map());
      expect(await keys.findByHash(hashApiKey(key))).to.include({ last_used_at: '2024-05-01T00:00:00.000Z' });
      expect(await keys.disable(record.key_id)).to.equal(true);
      expect(await keys.disable('unknown')).to.equal(false);
      expect(await keys.findByHash(hashApiKey(key))).to.include({ active: false });
      expect((await keys.list()).map(({ key_id }) => key_id)).to.include(record.key_id);
      expect(await refusal(keys.create({ owner: 'two words' }))).to.equal('INVALID_REQUEST');
    });
  });

  describe('migration', () => {
    it('does nothing the second time, also when many ask at once', async () => {
      const results = await Promise.all(Array.from({ length: 4 }, () => migrate(db)));
      expect(results).to.deep.equal([[], [], [], []]);
    });
  });
}

function nested(depth: number): unknown {
  return depth === 0 ? 1 : [nested(depth - 1)];
}

/** Holds that every old value is what the events before have said of the task. */
export function expectChained(events: readonly TaskEvent[]): void {
  const fees = new Map<number, unknown>();
  const statuses = new Map<number, unknown>();
  for (const { taskId, seq, changes } of events) {
    const { old_fee, old_status, task_opx_cost, task_status } = JSON.parse(changes);
    if (old_fee !== undefined) {
      expect(old_fee, `old fee at ${seq}`).to.equal(fees.get(taskId) ?? null);
    }
    if (old_status !== undefined) {
      expect(old_status, `old status at ${seq}`).to.equal(statuses.get(taskId) ?? 'pending');
    }
    if (task_opx_cost !== undefined) {
      fees.set(taskId, task_opx_cost);
    }
    if (task_status !== undefined) {
      statuses.set(taskId, task_status);
    }
  }
}
