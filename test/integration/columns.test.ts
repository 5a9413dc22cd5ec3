import { expect } from 'chai';
import fc from 'fast-check';
import type { Knex } from 'knex';
import pg from 'pg';
import { connectDatabase } from '../../src/database/connect-database.js';
import type { EventEnvelope } from '../../src/protocol/events.js';
import { parseRoom } from '../../src/protocol/rooms.js';
import { EventLog } from '../../src/repository/event-log.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import type { TaskUpdate } from '../../src/repository/task-patch.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { POSTGRES_PROGRAMS, sharedPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { RestServer } from '../support/rest.js';
import { merge, type Row } from '../support/rows.js';
import { type Said, visible } from '../support/told.js';

const TEXTS = [
  '',
  'plain',
  '"quoted" \\ and \\u0041',
  'line\nline\r\n\ttab\u0001\u007f',
  'ü\u2028\u2029\u{1F600}e\u0301\ufeff',
  ' ',
];
const LONG = 'ß"\\\u{1F600}'.repeat(10_000);
const NUMBERS = [0, 1, Number.MAX_SAFE_INTEGER];
const FEES = [0, 5e-324, 0.1, 1e21, 1e308, Number.MAX_VALUE, 123_456_789.123_456_79];
const TIMES = ['1970-01-01T00:00:00.000Z', '2024-02-29T23:59:59.999Z', '9999-12-31T23:59:59.999Z'];
const JSONS = [
  null,
  [],
  {},
  [1e300, -1e-300, 0.1, null, true, 'a"\\\n\u2028'],
  { 'ü "key"': [[[{ '': 0 }]]], b: 1e15 },
  'text',
  42,
];

/** A column: what the writers of ours take, and what others may write beside that. */
interface Column {
  readonly kind: 'execution' | 'attestation' | 'fee' | 'status' | undefined;
  readonly values: readonly unknown[];
  /** Texts of SQL. */
  readonly sql: readonly string[];
}

const text = (kind: Column['kind'], values: readonly unknown[] = TEXTS): Column => ({
  kind,
  values,
  sql: ['NULL', ...[...TEXTS, LONG].map((value) => pg.escapeLiteral(value))],
});
const number = (kind: Column['kind']): Column => ({
  kind,
  values: NUMBERS,
  sql: ['NULL', '-1', '-9223372036854775808', '9223372036854775807', '9007199254740993'],
});
const flag = (kind: Column['kind']): Column => ({ kind, values: [true, false], sql: ['NULL', 'true', 'false'] });
const json = (kind: Column['kind'], values: readonly unknown[]): Column => ({
  kind,
  values,
  sql: [
    'NULL',
    ...JSONS.map((value) => `${pg.escapeLiteral(JSON.stringify(value))}::jsonb`),
    `'[1e1000, -0.0]'::jsonb`,
  ],
});
const time = (kind: Column['kind']): Column => ({
  kind,
  values: TIMES,
  sql: ["'0001-01-01T00:00:00Z'", "'2024-01-01T00:00:00.123999+05:30'", "'infinity'", "'-infinity'"],
});

/** Every column that a reader sees, the ids apart. */
const COLUMNS: Readonly<Record<string, Column>> = {
  task_number: number('attestation'),
  task_definition_id: { ...number(undefined), sql: number(undefined).sql.slice(1) },
  is_imua: { ...flag(undefined), sql: ['true', 'false'] },
  task_status: { ...text('status', ['a', 'Z_9-', 'x'.repeat(32)]), sql: text(undefined).sql.slice(1) },
  task_error: text('execution', [...TEXTS, null]),
  task_opx_cost: { kind: 'fee', values: FEES, sql: ['NULL', '-1.5', "'NaN'", "'Infinity'", "'-Infinity'", '-0.0'] },
  execution_timestamp: { ...time('execution'), sql: ['NULL', ...time(undefined).sql] },
  execution_tx_hash: text('execution'),
  proof_of_task: text('execution', [...TEXTS, '\u0001"\u{1F600}'.repeat(16_000)]),
  task_performer_id: number('execution'),
  task_attester_ids: json('attestation', [
    [],
    [0, 1, Number.MAX_SAFE_INTEGER],
    Array.from({ length: 1_000 }, (_, n) => n),
  ]),
  tp_signature: text('attestation'),
  ta_signature: text('attestation'),
  task_submission_tx_hash: text('attestation'),
  is_successful: flag('attestation'),
  tx_url: text('execution', [...TEXTS, null]),
  converted_arguments: json('execution', JSONS),
  created_at: time(undefined),
};

const patchOf = (column: string, value: unknown): object => ({ [column === 'task_opx_cost' ? 'fee' : column]: value });

describeWith(POSTGRES_PROGRAMS, 'every column, by every writer', function () {
  this.timeout(60_000);
  let db: Knex;
  let rest: RestServer;
  let log: EventLog;
  let key: string;
  let job: string;
  let task: number;
  let jobs = 0;
  const user = 'ada';

  /** Ways to set a column to a value, among those that our own writers take. */
  const OURS: Readonly<Record<string, (column: string, value: unknown) => Promise<unknown>>> = {
    'the repository with a publisher': (column, value) =>
      update(new TaskRepository(db, { publish() {} }), column, value),
    'the repository without a publisher': (column, value) => update(new TaskRepository(db), column, value),
    'the repository in a transaction': (column, value) =>
      db.transaction((trx) => update(new TaskRepository(db).within(trx), column, value)),
    'a batch': async (column, value) => {
      const [outcome] = await new TaskRepository(db, { publish() {} }).updateManyTaskData(user, [
        updateOf(column, value),
      ]);
      expect(outcome).to.have.property('seq');
    },
    REST: async (column, value) => {
      const kind = COLUMNS[column]!.kind!;
      const path = kind === 'fee' || kind === 'status' ? `/api/tasks/${task}/${kind}` : `/api/tasks/${kind}/${task}`;
      const { status, body } = await rest.request('PUT', path, { key, body: patchOf(column, value) });
      expect(status, JSON.stringify(body)).to.equal(200);
    },
    'a batch over REST': async (column, value) => {
      const { status, body } = await rest.request('PUT', '/api/tasks', { key, body: [updateOf(column, value)] });
      expect(status, JSON.stringify(body)).to.equal(200);
    },
  };
  /** The same by SQL. */
  const THEIRS: Readonly<Record<string, (column: string, sql: string) => Promise<unknown>>> = {
    'an UPDATE': (column, sql) => raw(`UPDATE tasks SET ${column} = ${sql} WHERE task_id = ${task}`),
    'ON CONFLICT': (column, sql) =>
      raw(`INSERT INTO tasks (task_id, job_id, user_id, task_definition_id, is_imua, task_status, created_at)
        VALUES (${task}, ${job}, '${user}', 1, true, 'new', now()) ON CONFLICT (task_id) DO UPDATE SET ${column} = ${sql}`),
    'an INSERT after a DELETE': (column, sql) => {
      const others = Object.keys(COLUMNS).filter((name) => name !== column);
      return raw(`CREATE TEMP TABLE old ON COMMIT DROP AS SELECT * FROM tasks WHERE task_id = ${task};
        DELETE FROM tasks WHERE task_id = ${task};
        INSERT INTO tasks (task_id, job_id, user_id, ${others.join(', ')}, ${column})
        SELECT task_id, job_id, user_id, ${others.join(', ')}, ${sql} FROM old`);
    },
    'an INSERT': (column, sql) => {
      const needed: Record<string, string> = {
        task_definition_id: '1',
        is_imua: 'false',
        task_status: `'new'`,
        created_at: 'now()',
        [column]: sql,
      };
      return raw(`INSERT INTO tasks (job_id, user_id, ${Object.keys(needed).join(', ')})
        VALUES (${job}, '${user}', ${Object.values(needed).join(', ')})`);
    },
  };

  before(async () => {
    const url = await (await sharedPostgres()).createDatabase();
    db = connectDatabase({ url, pool: 4 });
    rest = new RestServer(db);
    await rest.start();
    log = new EventLog(db);
    key = await rest.makeKey(user);
  });

  after(() => rest?.stop());

  beforeEach(async () => {
    jobs += 1;
    job = String(jobs);
    await new JobRepository(db).create({ job_id: job, user_id: user });
    task = (await new TaskRepository(db).createTaskData({ job_id: job, task_definition_id: 1 })).task_id;
  });

  /** Several statements in one go are one transaction. */
  const raw = (sql: string): Promise<unknown> => db.raw(sql.replaceAll('?', '\\?'));

  const updateOf = (column: string, value: unknown): TaskUpdate =>
    ({
      task_id: task,
      kind: COLUMNS[column]!.kind,
      ...(COLUMNS[column]!.kind === 'status' && column !== 'task_status' ? { task_status: 'same' } : {}),
      ...patchOf(column, value),
    }) as TaskUpdate;

  async function update(repository: TaskRepository, column: string, value: unknown): Promise<void> {
    switch (COLUMNS[column]!.kind) {
      case 'execution':
        await repository.updateTaskExecutionData(task, patchOf(column, value));
        break;
      case 'attestation':
        await repository.updateTaskAttestationData(task, patchOf(column, value));
        break;
      case 'fee':
        await repository.updateTaskFee(task, value as number);
        break;
      default:
        await repository.updateTaskNumberAndStatus(task, undefined, value as string);
    }
  }

  /** A room as somebody has it who took a snapshot and merges events. */
  class Page {
    private readonly rows = new Map<number, Row>();

    private constructor(
      private seq: number,
      readonly epoch: string,
      tasks: readonly Row[],
    ) {
      for (const row of tasks) {
        this.rows.set(row['task_id'] as number, { ...row, seq });
      }
    }

    static async open(): Promise<Page> {
      const { seq, epoch, tasks } = (await log.snapshot(parseRoom(`job:${job}`), 1_000))!;
      return new Page(seq, epoch, JSON.parse(tasks));
    }

    /** Holds that it, REST, a snapshot and the table are the same. */
    async check(what: string): Promise<void> {
      for (let more = true; more; ) {
        const path = `/api/jobs/${job}/events?since=${this.seq}&epoch=${this.epoch}&limit=1000`;
        const { body } = await rest.request('GET', path, { key });
        expect(body.recovered).to.equal(true);
        merge(this.rows, body.events as EventEnvelope[]);
        this.seq = body.seq;
        more = body.next !== null;
      }
      const { rows } = (await db.raw(
        `SELECT to_jsonb(t) || jsonb_build_object('job_id', job_id::text) AS row FROM tasks t WHERE job_id = ?
         ORDER BY task_id`,
        [job],
      )) as { rows: Array<{ row: Said }> };
      const table = normal(rows.map(({ row }) => visible(row)));
      const merged = [...this.rows.values()].map(({ seq, ...row }) => row);
      expect(
        normal(merged.sort((a, b) => Number(a['task_id']) - Number(b['task_id']))),
        `events, ${what}`,
      ).to.deep.equal(table);
      const page = await rest.request('GET', `/api/tasks/job/${job}`, { key });
      expect(normal(page.body.tasks), `REST, ${what}`).to.deep.equal(table);
      const snapshot = await log.snapshot(parseRoom(`job:${job}`), 1_000);
      expect(normal(JSON.parse(snapshot!.tasks)), `snapshot, ${what}`).to.deep.equal(table);
    }
  }

  const names = Object.keys(COLUMNS);
  const taken = names.filter((name) => COLUMNS[name]!.kind !== undefined);

  for (const [writer, write] of Object.entries(OURS)) {
    it(`is what events and reads say: ${writer}`, async () => {
      const page = await Page.open();
      for (const column of taken) {
        for (const [place, value] of COLUMNS[column]!.values.entries()) {
          await write(column, value);
          await page.check(`${column}, value ${place}`);
        }
      }
    });
  }

  for (const [writer, write] of Object.entries(THEIRS)) {
    it(`is what events and reads say: ${writer}`, async () => {
      const page = await Page.open();
      for (const column of names) {
        const { values, sql } = COLUMNS[column]!;
        const isJson = column === 'task_attester_ids' || column === 'converted_arguments';
        const literals = values.map((value) => pg.escapeLiteral(isJson ? JSON.stringify(value) : String(value)));
        for (const [place, value] of [...sql, ...(writer === 'an INSERT' ? [] : literals)].entries()) {
          if (value === "'null'" && !isJson) {
            continue;
          }
          await write(column, value);
          if (writer !== 'an INSERT') {
            await page.check(`${column}, value ${place}`);
          }
        }
        await page.check(column);
        await db.raw('DELETE FROM tasks WHERE job_id = ? AND task_id <> ?', [job, task]);
      }
    });
  }

  it('is so for any order of writers, and for whoever comes in between', async () => {
    const ours = fc
      .constantFrom(...taken)
      .chain((column) =>
        fc.tuple(
          fc.constantFrom(...Object.keys(OURS)),
          fc.constant(column),
          fc.constantFrom(...COLUMNS[column]!.values),
        ),
      );
    const theirs = fc
      .constantFrom(...names)
      .chain((column) =>
        fc.tuple(
          fc.constantFrom(...Object.keys(THEIRS)),
          fc.constant(column),
          fc.constantFrom(...COLUMNS[column]!.sql),
        ),
      );
    const steps = fc.array(fc.oneof(ours, theirs, fc.constant('somebody comes' as const)), {
      minLength: 1,
      maxLength: 12,
    });
    await fc.assert(
      fc.asyncProperty(steps, async (made) => {
        const pages = [await Page.open()];
        for (const step of made) {
          if (step === 'somebody comes') {
            pages.push(await Page.open());
            continue;
          }
          const [writer, column, value] = step;
          await (writer in OURS ? OURS[writer]!(column, value) : THEIRS[writer]!(column, value as string));
        }
        for (const page of pages) {
          await page.check('in the end');
        }
        await db.raw('DELETE FROM tasks WHERE job_id = ? AND task_id <> ?', [job, task]);
      }),
      { numRuns: 40 },
    );
  });
});

/** As JSON says it: it knows no minus zero. */
const normal = (rows: unknown): unknown => JSON.parse(JSON.stringify(rows));
