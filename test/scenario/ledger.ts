import type { Knex } from 'knex';
import type { TaskWrite } from '../../src/repository/write-runner.js';

/** What became of a request that was not answered with 2xx. */
export type Setback =
  /** 503 or 429 with Retry-After: nothing was written. */
  | 'turned away'
  /** No answer, or one of the proxy's own: nobody knows what was written. */
  | 'unanswered';

/** What SQL writers have done, by the tag that is in the rows and so in their events. */
export interface SqlWrite {
  readonly tag: string;
  /** `unknown`: the connection ended before the answer. */
  readonly fate: 'committed' | 'rolled back' | 'unknown';
  /** Rows, and so events; unknown for a write whose fate is. */
  readonly rows: number | undefined;
}

/** An event of the log, as far as the account looks at it. */
export interface LoggedEvent {
  readonly userId: string;
  readonly seq: number;
  readonly taskId: number;
  readonly type: string;
  /** The tag of who wrote it by SQL. */
  readonly tag: string | null;
}

export interface WriteAccount {
  /** Answered well, or committed, and not in the log as often as they should be. */
  readonly lost: readonly string[];
  /** In the log, and by nobody who was answered well; or at one place with another. */
  readonly twice: readonly string[];
}

/** What happens at the time, and whether an operator does it on purpose: then every request has an answer, each time. */
export interface ActOfNow {
  readonly name: string;
  readonly planned: boolean;
}

export const NOTHING: ActOfNow = { name: 'nothing', planned: true };

/** Everything that writers asked for, and what they were told. */
export class Ledger {
  /** Writes over REST that were answered with 2xx. */
  readonly answered: TaskWrite[] = [];
  readonly sql: SqlWrite[] = [];
  readonly setbacks: Array<{ readonly act: ActOfNow; readonly setback: Setback; readonly reason: string }> = [];
  /** Answers that nothing explains. */
  readonly strange: string[] = [];
  /** What is going on. */
  act: ActOfNow = NOTHING;

  note(setback: Setback, reason: string): void {
    this.setbacks.push({ act: this.act, setback, reason });
  }

  count(setback: Setback): number {
    return this.setbacks.filter((one) => one.setback === setback).length;
  }

  /** Compares what writers were told with the whole log, event by event. */
  compare(log: readonly LoggedEvent[]): WriteAccount {
    const lost: string[] = [];
    const twice: string[] = [];
    const unexplained = new Map(log.map((event) => [placeOf(event), event]));
    for (const { user_id, seq, task_id } of this.answered) {
      const place = `${user_id} ${seq}`;
      const event = unexplained.get(place);
      if (event === undefined || event.taskId !== task_id) {
        lost.push(`the write of task ${task_id} that was answered as ${place}`);
      } else {
        unexplained.delete(place);
      }
    }
    const tagged = new Map<string, LoggedEvent[]>();
    for (const event of unexplained.values()) {
      if (event.tag !== null) {
        tagged.set(event.tag, [...(tagged.get(event.tag) ?? []), event]);
      }
    }
    for (const { tag, fate, rows } of this.sql) {
      const events = tagged.get(tag) ?? [];
      const wanted = fate === 'unknown' ? events.length : fate === 'rolled back' ? 0 : rows!;
      if (events.length < wanted) {
        lost.push(`${wanted - events.length} of ${wanted} rows that were committed by SQL as ${tag}`);
      } else if (events.length > wanted || new Set(events.map(({ taskId }) => taskId)).size < events.length) {
        twice.push(`${events.length} events of ${wanted} rows by SQL as ${tag}`);
      }
      for (const event of events) {
        unexplained.delete(placeOf(event));
      }
    }
    twice.push(...[...unexplained.values()].map((event) => `${event.type} ${placeOf(event)} of nobody`));
    return { lost, twice };
  }
}

const placeOf = ({ userId, seq }: LoggedEvent): string => `${userId} ${seq}`;

export const SQL_TAG = 'sql:';
/** Only SQL writers delete tasks; what is deleted has no field for a tag. */
export const deletionTag = (taskId: number): string => `${SQL_TAG}delete ${taskId}`;

/** The whole log. A row that SQL writes has its tag in a field that nobody else writes. */
export async function readLog(db: Knex): Promise<LoggedEvent[]> {
  const { rows } = (await db.raw(
    `SELECT user_id, seq, task_id, type, changes->>'tx_url' AS tag FROM task_events ORDER BY user_id, seq`,
  )) as { rows: Array<{ user_id: string; seq: string; task_id: string; type: string; tag: string | null }> };
  return rows.map(({ user_id, seq, task_id, type, tag }) => ({
    userId: user_id,
    seq: Number(seq),
    taskId: Number(task_id),
    type,
    tag: type === 'TASK_DELETED' ? deletionTag(Number(task_id)) : tag?.startsWith(SQL_TAG) === true ? tag : null,
  }));
}
