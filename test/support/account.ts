import { expect } from 'chai';
import type { Knex } from 'knex';
import { parseRoom } from '../../src/protocol/rooms.js';
import type { TaskRow } from '../../src/protocol/tasks.js';
import { taskJson } from '../../src/repository/task-json.js';
import { eventually } from './eventually.js';
import type { Subscriber } from './subscriber.js';

const COLUMN = { job: 'job_id', task: 'task_id', user: 'user_id' } as const;
const TYPE = { job: 'numeric', task: 'bigint', user: 'text' } as const;

/** The truth about rooms, read from the database once. */
export class Account {
  private readonly logged = new Map<string, Promise<number[]>>();

  constructor(private readonly db: Knex) {}

  /** Positions of all events of a room, in order. */
  private events(name: string): Promise<number[]> {
    let seqs = this.logged.get(name);
    if (seqs === undefined) {
      const { kind, id } = parseRoom(name);
      seqs = this.db
        .raw(`SELECT seq FROM task_events WHERE ${COLUMN[kind]} = ?::${TYPE[kind]} ORDER BY seq`, [id])
        .then(({ rows }: { rows: Array<{ seq: string }> }) => rows.map(({ seq }) => Number(seq)));
      this.logged.set(name, seqs);
    }
    return seqs;
  }

  /**
   * Holds that a subscriber has had each event of its rooms once and in order, as soon as everything has come.
   * @param patience milliseconds that late events may take
   */
  async settle(subscriber: Subscriber, patience = 20_000): Promise<void> {
    for (const [name, history] of subscriber.rooms) {
      const expected = await this.events(name);
      await eventually(
        () => {
          expect(subscriber.violations).to.deep.equal([]);
          const base = history.base ?? Number.POSITIVE_INFINITY;
          expect(history.base, `${name} was subscribed`).to.not.equal(undefined);
          const wanted = expected.filter((seq) => seq > base);
          const got = history.seqs.filter((seq) => seq > base);
          if (got.length !== wanted.length || got.some((seq, index) => seq !== wanted[index])) {
            const had = new Set(got);
            const missing = wanted.filter((seq) => !had.has(seq));
            throw new Error(`${name}: ${missing.length} of ${wanted.length} missing, first ${missing[0]}`);
          }
        },
        { timeoutMs: patience, intervalMs: 100 },
      );
    }
  }

  /** Holds that what a subscriber derived of its job rooms equals the database. */
  async compareState(subscriber: Subscriber): Promise<void> {
    for (const name of subscriber.rooms.keys()) {
      const { kind, id } = parseRoom(name);
      if (kind !== 'job') {
        continue;
      }
      const { rows } = (await this.db.raw(`SELECT ${taskJson('t')} AS task FROM tasks t WHERE job_id = ?::numeric`, [
        id,
      ])) as { rows: Array<{ task: TaskRow }> };
      for (const { task } of rows) {
        const derived = subscriber.state.get(task.task_id);
        expect(derived, `task ${task.task_id} of ${name}`).to.not.equal(undefined);
        for (const field of [
          'task_status',
          'task_opx_cost',
          'task_number',
          'is_successful',
          'execution_tx_hash',
        ] as const) {
          // A task that came as an event has only what changed since.
          expect(
            derived?.[field] ?? (field === 'task_status' ? 'pending' : null),
            `${name} ${task.task_id} ${field}`,
          ).to.equal(task[field]);
        }
      }
    }
  }
}
