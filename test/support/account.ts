import { isDeepStrictEqual } from 'node:util';
import { expect } from 'chai';
import type { Knex } from 'knex';
import { parseRoom } from '../../src/protocol/rooms.js';
import { INITIAL_TASK_STATUS, type TaskRow } from '../../src/protocol/tasks.js';
import { taskJson } from '../../src/repository/task-json.js';
import { eventually } from './eventually.js';
import { isIn, type RoomHistory, type Subscriber } from './subscriber.js';

const COLUMN = { job: 'job_id', task: 'task_id', user: 'user_id' } as const;
const TYPE = { job: 'numeric', task: 'bigint', user: 'text' } as const;

type Row = Readonly<Record<string, unknown>>;

interface LoggedEvent {
  readonly seq: number;
  readonly taskId: number;
  readonly created: boolean;
  /** Names of the fields that it says. */
  readonly fields: readonly string[];
}

/** The truth about rooms, read from the database once. */
export class Account {
  private readonly logged = new Map<string, Promise<LoggedEvent[]>>();
  private readonly rows = new Map<string, Promise<Row[]>>();

  constructor(private readonly db: Knex) {}

  /** All events of a room, in order. */
  private events(name: string): Promise<LoggedEvent[]> {
    return once(this.logged, name, async () => {
      const { kind, id } = parseRoom(name);
      const { rows } = (await this.db.raw(
        `SELECT seq, task_id, type, (SELECT string_agg(field, ' ') FROM jsonb_object_keys(changes) field) AS fields
         FROM task_events WHERE ${COLUMN[kind]} = ?::${TYPE[kind]} ORDER BY seq`,
        [id],
      )) as { rows: Array<{ seq: string; task_id: string; type: string; fields: string }> };
      // Few combinations of fields, many events.
      const lists = new Map<string, readonly string[]>();
      return rows.map(({ seq, task_id, type, fields }) => {
        const list = lists.get(fields) ?? fields.split(' ');
        lists.set(fields, list);
        return { seq: Number(seq), taskId: Number(task_id), created: type === 'TASK_CREATED', fields: list };
      });
    });
  }

  /** All tasks of a room, with what events can say of them. */
  private tasks(name: string): Promise<Row[]> {
    return once(this.rows, name, async () => {
      const { kind, id } = parseRoom(name);
      const { rows } = (await this.db.raw(
        `SELECT ${taskJson('t')} AS task FROM tasks t WHERE ${COLUMN[kind]} = ?::${TYPE[kind]} ORDER BY task_id`,
        [id],
      )) as { rows: Array<{ task: TaskRow }> };
      return rows.map(({ task }) => task as unknown as Row);
    });
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
          const wanted = expected.map(({ seq }) => seq).filter((seq) => seq > base);
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

  /**
   * Holds that what a subscriber derived of its rooms equals the database, field by field: of a task that it has had
   * whole all fields, of another one those that events told it of; and that it has no task that is not there.
   */
  async compareState(subscriber: Subscriber): Promise<void> {
    for (const [name, history] of subscriber.rooms) {
      const told = await this.toldOf(name, history, subscriber);
      const rows = await this.tasks(name);
      const ids = new Set(rows.map((row) => row['task_id']));
      for (const [id, row] of subscriber.state) {
        if (isIn(row, name) && !ids.has(id)) {
          throw new Error(`${name}: task ${id} is there no more`);
        }
      }
      for (const row of rows) {
        const id = row['task_id'] as number;
        const wrong = differences(row, subscriber.state.get(id) ?? {}, told.get(id));
        if (wrong.length > 0) {
          throw new Error(`${name}: task ${id} differs from the database in ${wrong.join(', ')}`);
        }
      }
    }
  }

  /** What a subscriber must know of the tasks of a room, by task id. */
  private async toldOf(name: string, history: RoomHistory, subscriber: Subscriber): Promise<Map<number, Told>> {
    const base = history.base ?? Number.POSITIVE_INFINITY;
    // A room that could not be resumed has a snapshot of another position than its base.
    const resumed = !subscriber.unrecoveredRooms.some((room) => room.startsWith(`${name} `));
    const snapshot = resumed && name.startsWith('job:');
    const told = new Map<number, Told>();
    for (const { seq, taskId, created, fields } of await this.events(name)) {
      const task = told.get(taskId) ?? { whole: 'no', fields: new Set() };
      told.set(taskId, task);
      if (created) {
        task.whole = seq > base ? 'since its creation' : snapshot ? 'by a snapshot' : 'no';
      }
      if (seq > base) {
        for (const field of fields) {
          task.fields.add(field);
        }
      }
    }
    return told;
  }
}

interface Told {
  whole: 'no' | 'by a snapshot' | 'since its creation';
  /** Fields of events. */
  readonly fields: Set<string>;
}

/** What a task is of which events have said nothing but that it was created. */
const initial = (field: string): unknown => (field === 'task_status' ? INITIAL_TASK_STATUS : null);

/** Fields in which a derived row is wrong, or that it lacks. */
function differences(row: Row, derived: Row, told: Told | undefined): string[] {
  return Object.keys(row).filter((field) => {
    if (Object.hasOwn(derived, field)) {
      return derived[field] !== row[field] && !isDeepStrictEqual(derived[field], row[field]);
    }
    if (told === undefined) {
      return false;
    }
    // What no event has said since the task was created has not changed since.
    const unchanged = told.whole === 'since its creation' && !told.fields.has(field);
    return unchanged ? row[field] !== initial(field) : told.whole === 'by a snapshot' || told.fields.has(field);
  });
}

function once<Value>(cache: Map<string, Promise<Value>>, key: string, make: () => Promise<Value>): Promise<Value> {
  let value = cache.get(key);
  if (value === undefined) {
    value = make();
    cache.set(key, value);
  }
  return value;
}
