import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { connectDatabase } from '../../src/database/connect-database.js';
import { TaskwireError } from '../../src/protocol/errors.js';
import type { TaskUpdate } from '../../src/repository/task-patch.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import type { TaskWrite } from '../../src/repository/write-runner.js';
import { KeyedRest } from '../support/keyed-rest.js';
import { installLedger, Ledger } from '../support/ledger.js';
import { SharedTasks } from '../support/shared-tasks.js';
import { NEVER, type SqlRound, STRANGERS_TABLES, sqlRounds } from '../support/sql-rounds.js';
import { random } from '../support/writers.js';
import { type Load, type LoadStage, publishingRepository } from './load.js';

/** Tasks at a time. */
const TASKS = 40;
const CONNECTIONS = 8;
/** What a writer waits after a failure, in milliseconds. */
const RETRY_MS = 50;
/** Fees that are written under a key, each once; others are lower. */
const FIRST_KEYED_FEE = 1_000_000_000;

/** A write under a key, by the fee that it sets and nobody else does. */
interface KeyedWrite {
  readonly fee: number;
  /** Where it is in the log, or that it is nowhere; absent: nobody knows. */
  readonly answer?: { readonly seq: number; readonly user_id: string } | 'refused';
}

type Round = (n: number) => Promise<unknown>;

/**
 * Writers of all kinds at once, to the same tasks: the repository with a publisher and without, REST and batches under keys,
 * SQL of all sorts, and programs that have the repository join their transactions.
 */
export class MixedLoad implements Load {
  written = 0;
  failed = 0;
  figures: Record<string, number> = {};
  private readonly tasks: SharedTasks;
  private readonly surprises: string[] = [];
  private readonly keyed: KeyedWrite[] = [];
  private readonly rest: KeyedRest;
  private count = 0;
  private keys = 0;

  constructor(private readonly stage: LoadStage) {
    this.tasks = new SharedTasks(stage.scene.jobs, random(stage.seed * 100), TASKS);
    this.rest = new KeyedRest({
      urls: stage.urls,
      apiKey: stage.scene.serviceKey,
      onSurprise: ({ status, body }, request) =>
        this.surprises.push(`${request} was answered ${status} ${JSON.stringify(body)}`),
    });
  }

  async prepare(): Promise<void> {
    const { db, jobs } = this.stage.scene;
    await installLedger(db);
    for (const statement of STRANGERS_TABLES) {
      await db.raw(statement);
    }
    const repository = new TaskRepository(db);
    while (this.tasks.few) {
      const job = this.tasks.pick(jobs);
      const { task_id } = await repository.createTaskData({ job_id: job.jobId, task_definition_id: 1 });
      this.tasks.add(task_id, job);
    }
  }

  async run(): Promise<void> {
    const { proxiedUrl, databaseUrl } = this.stage;
    const publishing = await publishingRepository(this.stage, CONNECTIONS);
    const db = connectDatabase({ url: proxiedUrl, pool: CONNECTIONS });
    const direct = connectDatabase({ url: databaseUrl, pool: 2 });
    const plain = new TaskRepository(db);
    const strangers = Array.from({ length: 3 }, () => new Stranger(databaseUrl));
    const rounds = sqlRounds(await strangers[0]!.run(async (client) => versionOf(client)));
    const [one, two, orm] = strangers as [Stranger, Stranger, Stranger];
    const bySql = (stranger: Stranger): Round => {
      return (n) => stranger.run((client) => this.tasks.pick<SqlRound>(rounds)(client, this.tasks, n));
    };
    await Promise.all(
      [
        this.byRepository(publishing.repository),
        this.byRepository(publishing.repository),
        this.byRepository(plain),
        this.inBatches(publishing.repository),
        this.byRest,
        this.byRest,
        this.inRestBatches,
        bySql(one),
        bySql(two),
        (n: number) => orm.run((client) => this.joined(plain, client, n)),
        (n: number) =>
          direct.transaction(async (trx) => {
            await this.unitOfWork(plain.within(trx), (sql, bindings) => trx.raw(sql, bindings as number[]), n);
          }),
      ].map((round) => this.repeat(round)),
    );
    await Promise.all(strangers.map((stranger) => stranger.end()));
    await Promise.all([publishing.stop(), db.destroy(), direct.destroy()]);
  }

  async problems(): Promise<string[]> {
    const { db } = this.stage.scene;
    const { problems, ...figures } = await Ledger.check(db);
    this.figures = { ...figures, keyed: this.keyed.length, retries: this.rest.retries };
    const { rows } = (await db.raw('SELECT count(*) AS seen FROM task_events WHERE changes::text LIKE ?', [
      `%${NEVER}%`,
    ])) as { rows: [{ seen: string }] };
    return [
      ...this.surprises.slice(0, 20),
      ...problems,
      ...(rows[0].seen === '0' ? [] : [`${rows[0].seen} events say what was rolled back`]),
      ...(await this.keyedProblems()),
    ];
  }

  /** Makes rounds until no more is wanted. */
  private async repeat(round: Round): Promise<void> {
    while (await this.stage.pace()) {
      this.count += 1;
      try {
        await round(this.count);
        this.written += 1;
      } catch (error) {
        if (error instanceof TaskwireError && error.code === 'NOT_FOUND') {
          continue;
        }
        this.failed += 1;
        if (!isOutage(error)) {
          const { detail, where } = error as { detail?: string; where?: string };
          this.surprises.push(`${error} ${codesOf(error)} ${detail ?? ''} ${where ?? ''} ${round.name}`);
        }
        await sleep(RETRY_MS);
      }
    }
  }

  /** What becomes of a task that is not there is known. */
  private async seeing<Result>(id: number, write: Promise<Result>): Promise<Result> {
    try {
      return await write;
    } catch (error) {
      if (error instanceof TaskwireError && error.code === 'NOT_FOUND') {
        this.tasks.gone(id);
      }
      throw error;
    }
  }

  private readonly byRepository =
    (repository: TaskRepository): Round =>
    async (n) => {
      const { tasks } = this;
      const id = tasks.one();
      if (tasks.few || tasks.next() < 0.05) {
        const job = tasks.job();
        const { task_id } = await repository.createTaskData({ job_id: job.jobId, task_definition_id: n });
        tasks.add(task_id, job);
        return;
      }
      const write = tasks.pick<() => Promise<TaskWrite>>([
        () => repository.updateTaskFee(id, n + 0.25),
        () => repository.updateTaskNumberAndStatus(id, n, tasks.pick(['processing', 'completed', 'failed'])),
        () => repository.updateTaskExecutionData(id, { task_performer_id: n, proof_of_task: `"${n}\\` }),
        () => repository.updateTaskAttestationData(id, { is_successful: n % 2 === 0, task_attester_ids: [n, 1] }),
        ...(tasks.next() < 0.1 ? [() => repository.deleteTaskData(id)] : []),
      ]);
      await this.seeing(id, write());
    };

  private readonly inBatches =
    (repository: TaskRepository): Round =>
    async (n) => {
      const { tasks } = this;
      const { userId } = tasks.job();
      const own = tasks.someOf(userId, 4);
      const updates = Array.from({ length: own.length * 2 }, (_, item): TaskUpdate => {
        const task_id = tasks.pick(own);
        return item % 2 === 0
          ? { kind: 'fee', task_id, fee: n + item / 16 }
          : { kind: 'status', task_id, task_status: tasks.pick(['a', 'b', 'c']) };
      });
      for (const outcome of await repository.updateManyTaskData(userId, updates)) {
        if (outcome instanceof TaskwireError && outcome.code !== 'NOT_FOUND') {
          throw outcome;
        }
      }
    };

  private readonly byRest: Round = async () => {
    const { tasks, rest } = this;
    const id = tasks.one();
    this.keys += 1;
    const key = `write-${this.keys}`;
    if (tasks.next() < 0.1) {
      const reply = await rest.call('DELETE', `/api/tasks/${id}`, undefined, key);
      if (reply?.status === 200) {
        tasks.gone(id);
      }
      return;
    }
    const fee = FIRST_KEYED_FEE + this.keys;
    const reply = await rest.call('PUT', `/api/tasks/${id}/fee`, { fee }, key);
    if (reply?.status === 404) {
      tasks.gone(id);
    }
    const answer = reply === undefined ? {} : { answer: reply.status === 200 ? reply.body : 'refused' };
    this.keyed.push({ fee, ...answer });
  };

  private readonly inRestBatches: Round = async () => {
    const { tasks, rest } = this;
    const items = tasks.some(0.1).slice(0, 5);
    this.keys += 1;
    const key = `batch-${this.keys}`;
    const updates = items.map((task_id) => {
      this.keys += 1;
      return { kind: 'fee', task_id, fee: FIRST_KEYED_FEE + this.keys };
    });
    if (updates.length === 0) {
      return;
    }
    const reply = await rest.call('PUT', '/api/tasks', updates, key);
    for (const [index, { fee, task_id }] of updates.entries()) {
      const result = reply?.body.results?.[index];
      const answer = result === undefined ? {} : { answer: result.error === undefined ? result : ('refused' as const) };
      if (answer.answer === 'refused') {
        tasks.gone(task_id);
      }
      this.keyed.push({ fee, ...answer });
    }
  };

  /** A transaction of a program that has the repository write in it. */
  private async joined(repository: TaskRepository, client: pg.Client, n: number): Promise<void> {
    const run = (sql: string, bindings: readonly unknown[]) => client.query(sql, [...bindings]);
    await client.query('BEGIN');
    await this.unitOfWork(
      repository.within({ query: run }),
      (sql, bindings) => client.query(numbered(sql), [...bindings]),
      n,
    );
    await client.query(this.tasks.next() < 0.2 ? 'ROLLBACK' : 'COMMIT');
  }

  /** Of one user: from its first write on, it has the counter. */
  private async unitOfWork(
    writes: TaskRepository,
    sql: (text: string, bindings: readonly unknown[]) => PromiseLike<unknown>,
    n: number,
  ): Promise<void> {
    const { tasks } = this;
    const { userId, jobId } = tasks.job();
    // What is there and this user's, in the order of its locks; nothing else is touched.
    const found = (await sql(
      'SELECT task_id FROM tasks WHERE task_id = ANY(?) AND user_id = ? ORDER BY task_id FOR UPDATE',
      [tasks.someOf(userId, 2), userId],
    )) as { rows: Array<{ task_id: string }> };
    const [id, other] = found.rows.map(({ task_id }) => Number(task_id));
    const set = async (task: number | undefined, status: string): Promise<void> => {
      await sql('UPDATE tasks SET task_status = ?, task_number = ? WHERE task_id = ?', [status, n, task ?? 0]);
    };
    await set(id, 'before');
    await set(other, 'before');
    if (id !== undefined) {
      await writes.updateTaskNumberAndStatus(id, n, tasks.pick(['joined', 'entered']));
    }
    await set(id, tasks.pick(['after', 'later']));
    const made = await writes.createTaskData({ job_id: jobId, task_definition_id: n });
    await set(made.task_id, 'made');
    if (tasks.next() < 0.7) {
      await writes.deleteTaskData(made.task_id);
    }
    await set(other, tasks.pick(['after', 'later']));
  }

  /** A write under a key is in the log once, where its answer says; one that was refused is not. */
  private async keyedProblems(): Promise<string[]> {
    const { rows } = (await this.stage.scene.db.raw(
      `SELECT changes ->> 'new_fee' AS fee, user_id, seq::int AS seq FROM task_events
       WHERE type = 'TASK_FEE_UPDATED' AND published AND (changes ->> 'new_fee')::float8 > ${FIRST_KEYED_FEE}`,
    )) as { rows: Array<{ fee: string; user_id: string; seq: number }> };
    const logged = new Map<number, Array<{ user_id: string; seq: number }>>();
    for (const { fee, ...place } of rows) {
      logged.set(Number(fee), [...(logged.get(Number(fee)) ?? []), place]);
    }
    return this.keyed.flatMap(({ fee, answer }) => {
      const places = logged.get(fee) ?? [];
      const right =
        answer === undefined
          ? places.length <= 1
          : answer === 'refused'
            ? places.length === 0
            : places.length === 1 && places[0]!.seq === answer.seq && places[0]!.user_id === answer.user_id;
      return right ? [] : [`fee ${fee} was answered ${JSON.stringify(answer)} and is at ${JSON.stringify(places)}`];
    });
  }
}

/** A session of somebody else, on the server itself; a new one whenever it was lost. */
class Stranger {
  private client: pg.Client | undefined;

  constructor(private readonly url: string) {}

  async run<Result>(work: (client: pg.Client) => Promise<Result>): Promise<Result> {
    try {
      this.client ??= await this.connect();
      return await work(this.client);
    } catch (error) {
      await this.end();
      throw error;
    }
  }

  async end(): Promise<void> {
    const { client } = this;
    this.client = undefined;
    await client?.end().catch(() => {});
  }

  private async connect(): Promise<pg.Client> {
    const client = new pg.Client({ connectionString: this.url });
    client.on('error', () => {
      // The statement that runs rejects with it.
    });
    await client.connect();
    // Whatever it has set is its own affair.
    await client.query(`SET "TimeZone" = 'Asia/Kolkata'; SET "DateStyle" = 'SQL, DMY'; SET extra_float_digits = -5`);
    return client;
  }
}

async function versionOf(client: pg.Client): Promise<number> {
  const { rows } = await client.query('SHOW server_version_num');
  return Number(rows[0].server_version_num);
}

function numbered(sql: string): string {
  let place = 0;
  return sql.replace(/\?/g, () => {
    place += 1;
    return `$${place}`;
  });
}

/** Codes of an error and of its causes. */
function codesOf(error: unknown): string {
  const { code, cause } = error as { code?: unknown; cause?: unknown };
  return [...(code === undefined ? [] : [code]), ...(cause === undefined ? [] : [codesOf(cause)])].join(' ');
}

/** What somebody is told whose server is away, and no deadlock. */
const isOutage = (error: unknown): boolean =>
  !/40P01/.test(codesOf(error)) &&
  ((error instanceof TaskwireError && ['DATABASE_UNAVAILABLE', 'STREAM_BUSY'].includes(error.code)) ||
    /terminat|ECONN|Connection|not queryable|starting up|shutting down|in recovery|closed/i.test(String(error)));
