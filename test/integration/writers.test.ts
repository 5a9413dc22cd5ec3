import { expect } from 'chai';
import type { Knex } from 'knex';
import pg from 'pg';
import { TaskwireError } from '../../src/protocol/errors.js';
import type { TaskEvent } from '../../src/protocol/events.js';
import { connectDatabase } from '../../src/repository/connect-database.js';
import { EventLog } from '../../src/repository/event-log.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import type { TaskUpdate } from '../../src/repository/task-patch.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { expectChained } from '../contract/repository.suite.js';
import { eventually } from '../support/eventually.js';
import { POSTGRES_PROGRAMS, type PostgresServer, startPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { random } from '../support/writers.js';

const USERS = 3;
const TASKS = 6;
/** Rounds of each writer. */
const ROUNDS = 60;

/** What a connection that was cut off says, and what the server says while it starts. */
const isOutage = (error: unknown): boolean =>
  (error instanceof TaskwireError && error.code === 'DATABASE_UNAVAILABLE' && !isDeadlock(error)) ||
  /terminat|ECONN|Connection|not queryable|starting up|shutting down|in recovery|closed/i.test(String(error));
const isDeadlock = (error: unknown): boolean => {
  const { code, cause } = error as { code?: unknown; cause?: unknown };
  return code === '40P01' || (cause !== undefined && isDeadlock(cause));
};

describeWith(POSTGRES_PROGRAMS, 'writers of all kinds at once', () => {
  let server: PostgresServer;
  let url: string;
  let db: Knex;

  before(async function () {
    this.timeout(60_000);
    server = await startPostgres({ deadlock_timeout: '100ms' });
    url = await server.createDatabase();
    db = connectDatabase({ url, pool: 12 });
  });

  after(async () => {
    await db?.destroy();
    await server?.stop();
  });

  it('make one account: the log adds up to the table, without a gap, a wrong old value or a deadlock', async function () {
    this.timeout(180_000);
    const users = Array.from({ length: USERS }, (_, n) => `user_${n}`);
    const published: TaskEvent[] = [];
    const tasks = new TaskRepository(db, { publish: (events) => published.push(...events) });
    const jobs = new JobRepository(db);
    const ids: number[] = [];
    for (const [n, user_id] of users.entries()) {
      await jobs.create({ job_id: n, user_id });
      for (let made = 0; made < TASKS; made += 1) {
        ids.push((await tasks.createTaskData({ job_id: n, task_definition_id: made })).task_id);
      }
    }
    const surprises: unknown[] = [];
    const next = random(7);
    const pick = <Item>(items: readonly Item[]): Item => items[Math.floor(next() * items.length)]!;
    /** Some tasks, in the order in which whoever writes several has to lock them. */
    const some = (): number[] => ids.filter(() => next() < 0.3).sort((a, b) => a - b);

    async function rounds(round: (n: number) => Promise<unknown>): Promise<void> {
      for (let n = 0; n < ROUNDS; n += 1) {
        try {
          await round(n);
        } catch (error) {
          if (error instanceof TaskwireError && error.code === 'NOT_FOUND') {
            continue;
          }
          if (!isOutage(error)) {
            surprises.push(error);
          }
        }
      }
    }

    const repository = (writes: TaskRepository) => (n: number) =>
      n % 2 === 0
        ? writes.updateTaskFee(pick(ids), n)
        : writes.updateTaskNumberAndStatus(pick(ids), n, pick(['processing', 'completed', 'failed']));

    const batches = (n: number): Promise<unknown> => {
      const own = Math.floor(next() * USERS);
      const theirs = ids.slice(own * TASKS, (own + 1) * TASKS);
      const updates = Array.from(
        { length: 8 },
        (_, fee): TaskUpdate =>
          fee % 2 === 0
            ? { kind: 'fee', task_id: pick(theirs), fee: n + fee }
            : { kind: 'status', task_id: pick(theirs), task_status: pick(['a', 'b', 'c']) },
      );
      return tasks.updateManyTaskData(users[own]!, updates);
    };

    /** Runs statements in a transaction of a connection of its own, which nobody else has. */
    async function transaction(work: (client: pg.Client) => Promise<void>): Promise<void> {
      const client = new pg.Client({ connectionString: url });
      client.on('error', () => {
        // The statement that runs rejects with it.
      });
      await client.connect();
      try {
        await client.query('BEGIN');
        await work(client);
        await client.query(next() < 0.2 ? 'ROLLBACK' : 'COMMIT');
      } finally {
        await client.end().catch(() => {});
      }
    }

    const stranger = (n: number): Promise<void> =>
      transaction(async (client) => {
        const rows = some();
        await client.query('SELECT 1 FROM tasks WHERE task_id = ANY($1) ORDER BY task_id FOR UPDATE', [rows]);
        await client.query(`UPDATE tasks SET task_status = $1, task_opx_cost = $2 WHERE task_id = ANY($3)`, [
          pick(['x', 'y', 'z']),
          n,
          rows,
        ]);
        await client.query('SAVEPOINT one');
        await client.query(`UPDATE tasks SET tx_url = $1, is_successful = $2 WHERE task_id = ANY($3)`, [
          `http://${n}`,
          next() < 0.5,
          rows.slice(1),
        ]);
        await client.query(next() < 0.5 ? 'ROLLBACK TO SAVEPOINT one' : 'RELEASE SAVEPOINT one');
        const { rows: made } = await client.query(
          `INSERT INTO tasks (job_id, user_id, task_definition_id, is_imua, task_status, created_at)
           SELECT n, 'user_' || n, n, true, 'pending', now() FROM generate_series(0, ${USERS - 1}) n RETURNING task_id`,
        );
        await client.query('DELETE FROM tasks WHERE task_id = $1', [made[0].task_id]);
        await client.query(
          `INSERT INTO tasks (task_id, job_id, user_id, task_definition_id, is_imua, task_status, created_at)
           VALUES ($1, 1, 'user_1', 9, false, 'pending', now())
           ON CONFLICT (task_id) DO UPDATE SET task_error = $2, converted_arguments = '[1e300, null]'`,
          [made[1].task_id, `error ${n}`],
        );
      });

    const joined = (n: number): Promise<void> =>
      transaction(async (client) => {
        const writes = tasks.within({ query: (sql, bindings) => client.query(sql, [...bindings]) });
        // One user: whoever takes counters before the commit holds them up.
        const id = pick(ids);
        await client.query('UPDATE tasks SET proof_of_task = $1, task_status = $2 WHERE task_id = $3', [
          `${n}`,
          'p',
          id,
        ]);
        await writes.updateTaskNumberAndStatus(id, n, pick(['q', 'r']));
        await client.query('UPDATE tasks SET task_status = $1 WHERE task_id = $2', [pick(['s', 't']), id]);
      });

    let writing = true;
    const faults = (async () => {
      for (let n = 0; writing; n += 1) {
        await new Promise((resolve) => setTimeout(resolve, 300));
        if (n === 5) {
          await server.restart('immediate');
        } else {
          await server
            .admin(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE datname = '${new URL(url).pathname.slice(1)}' ORDER BY random() LIMIT 1`)
            .catch(() => {});
        }
      }
    })();
    await Promise.all([
      rounds(repository(tasks)),
      rounds(repository(tasks)),
      rounds(repository(new TaskRepository(db))),
      rounds(batches),
      rounds(stranger),
      rounds(stranger),
      rounds(joined),
    ]);
    writing = false;
    await faults;
    expect(surprises).to.deep.equal([]);

    const log = new EventLog(db);
    for (const user of users) {
      const rooms = [{ kind: 'user', id: user, after: 0 }] as const;
      const page = await eventually(() => log.read({ userId: user, rooms, limit: 10_000 }));
      const { events } = page;
      expect(events.map(({ seq }) => seq)).to.deep.equal(Array.from({ length: page.seq }, (_, n) => n + 1));
      expect(events.some(({ unpublished }) => unpublished)).to.equal(true);
      expectChained(events);
      const rows = new Map<number, Record<string, unknown>>();
      for (const { type, taskId, changes } of events) {
        const { old_fee, new_fee, old_status, new_status, ...row } = JSON.parse(changes);
        if (type === 'TASK_DELETED') {
          rows.delete(taskId);
        } else {
          rows.set(taskId, { ...rows.get(taskId), ...row });
        }
      }
      const snapshot = await log.snapshot({ kind: 'user', id: user, name: `user:${user}` }, 10_000);
      const byId = (a: Record<string, unknown>, b: Record<string, unknown>) =>
        Number(a['task_id']) - Number(b['task_id']);
      expect([...rows.values()].sort(byId)).to.deep.equal(JSON.parse(snapshot!.tasks));
      // What was published is what was committed.
      const bySeq = new Map(events.map((event) => [event.seq, event]));
      for (const event of published.filter(({ userId }) => userId === user)) {
        expect(bySeq.get(event.seq)?.changes).to.equal(event.changes);
      }
    }
  });
});
