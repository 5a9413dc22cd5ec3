import type { EventType } from '../protocol/events.js';
import { INITIAL_TASK_STATUS } from '../protocol/tasks.js';
import { isoText } from './task-json.js';
import { COLUMN_TYPES, type Patch } from './task-patch.js';

/** One SQL statement with its bindings in the order of its question marks. */
export interface Statement {
  readonly sql: string;
  readonly bindings: readonly unknown[];
}

/** What a statement returns for each task that it wrote; the last two are null where nothing was logged. */
export interface WriteRow {
  task_id: string;
  job_id: string;
  user_id: string;
  /** `{type} {seq} {epoch} {timestamp}`: one text, because the driver spends more on a column than this takes. */
  stamp: string | null;
  changes: string | null;
}

/** The counter row first: it stays locked until commit, so `seq` order is commit order, and all locks are taken in one order. */
const RAISE = 'UPDATE event_streams SET seq = seq + 1';

/**
 * Whether a statement failed because the row that it wrote went away meanwhile; it has changed nothing. A counter that is
 * raised without an event would be a hole that readers wait at for ever, so such an event is made without ids, which the
 * log does not take.
 */
export function isVanished(error: unknown): boolean {
  const { code, table } = error as { code?: unknown; table?: unknown };
  return code === '23502' && table === 'task_events';
}

/** What the log gives back of a written event: a `WriteRow`. */
export const LOGGED_ROW = `task_id, job_id::text AS job_id, user_id, changes::text AS changes,
    concat_ws(' ', type, seq, (SELECT epoch FROM stream), ${isoText('created_at')}) AS stamp`;

/**
 * Logs the written row and answers.
 * @param said SQL of what the event says beside the ids: jsonb
 * @param at SQL of its time
 */
const logged = (type: EventType, said: string, at: string): string => `
  INSERT INTO task_events (user_id, seq, job_id, task_id, type, changes, created_at)
  SELECT stream.user_id, stream.seq, task.job_id, task.task_id, '${type}', ${said}, ${at}
  FROM stream LEFT JOIN task ON true
  RETURNING ${LOGGED_ROW}`;

/** The same of rows that are not logged. */
export const UNLOGGED = `
  SELECT task_id, job_id::text AS job_id, user_id, NULL AS changes, NULL AS stamp FROM task`;

/**
 * Inserts a task of an existing job. Without the job no row is changed and none is returned.
 * @param withEvent whether the owner's stream gets the event
 */
export function insertTask(
  input: { job_id: string; task_definition_id: number; is_imua: boolean },
  withEvent: boolean,
): Statement {
  const { job_id, task_definition_id, is_imua } = input;
  const insert = (source: string): string => `
  task AS (
    INSERT INTO tasks (job_id, user_id, task_definition_id, is_imua, task_status, created_at)
    SELECT ?::numeric, source.user_id, ?::bigint, ?::boolean, '${INITIAL_TASK_STATUS}', clock_timestamp()
    FROM ${source} source
    RETURNING task_id, job_id, user_id, task_definition_id, is_imua, created_at
  )`;
  const values = [job_id, task_definition_id, is_imua];
  if (!withEvent) {
    const owner = '(SELECT user_id FROM jobs WHERE job_id = ?::numeric)';
    return { sql: `WITH ${insert(owner)} ${UNLOGGED}`, bindings: [...values, job_id] };
  }
  const said = `jsonb_build_object('task_definition_id', task.task_definition_id, 'is_imua', task.is_imua,
    'created_at', ${isoText('task.created_at')})`;
  return {
    sql: `
  WITH stream AS (
    ${RAISE} WHERE user_id = (SELECT user_id FROM jobs WHERE job_id = ?::numeric) RETURNING user_id, seq, epoch
  ), ${insert('stream')} ${logged('TASK_CREATED', said, 'task.created_at')}`,
    bindings: [job_id, ...values],
  };
}

/** What an update's event says beside the fields that were set: SQL over the written row. */
export const BESIDE: Readonly<Record<EventType, string>> = {
  TASK_CREATED: '',
  TASK_UPDATED: '',
  TASK_STATUS_CHANGED: `|| jsonb_build_object('old_status', task.previous_status, 'new_status', task.task_status)`,
  TASK_FEE_UPDATED: `|| jsonb_build_object('old_fee', task.previous_opx_cost, 'new_fee', task.task_opx_cost)`,
};

/** Columns that keep what a write replaces in another one. */
const PREVIOUS: Readonly<Record<string, string>> = {
  task_status: 'previous_status',
  task_opx_cost: 'previous_opx_cost',
};

/**
 * What an update of some columns sets: these, and what keeps what they replace.
 * @param value SQL of a column's new value
 */
export const settings = (
  columns: readonly string[],
  value: (column: string) => string,
): Array<{ readonly column: string; readonly target: string; readonly to: string }> =>
  columns.flatMap((column) => {
    const previous = PREVIOUS[column];
    const set = { column, target: column, to: value(column) };
    return previous === undefined ? [set] : [set, { column, target: previous, to: `tasks.${column}` }];
  });

/** What an update returns of each row. */
export const UPDATED_ROW = ['task_id', 'job_id', 'user_id', ...Object.entries(PREVIOUS).flat()]
  .map((column) => `tasks.${column}`)
  .join(', ');

/**
 * Updates a task. Without the task no row is changed and none is returned.
 *
 * The row itself keeps what the update replaces: an UPDATE always works on the newest version of a row, while a read in
 * the same statement shows what was there before the statement waited for the counter, or costs a lock of its own.
 * @param withEvent whether the owner's stream gets the event
 */
export function updateTask({ taskId, type, fields }: Patch, withEvent: boolean): Statement {
  const columns = Object.keys(fields);
  const assignments = settings(columns, (column) => `?::${COLUMN_TYPES[column]}`)
    .map(({ target, to }) => `${target} = ${to}`)
    .join(', ');
  const values = columns.map((column) =>
    COLUMN_TYPES[column] === 'jsonb' ? JSON.stringify(fields[column]) : fields[column],
  );
  if (!withEvent) {
    return {
      sql: `
  WITH task AS (UPDATE tasks SET ${assignments} WHERE task_id = ? RETURNING task_id, job_id, user_id)
  ${UNLOGGED}`,
      bindings: [...values, taskId],
    };
  }
  return {
    sql: `
  WITH stream AS (
    ${RAISE} WHERE user_id = (SELECT user_id FROM tasks WHERE task_id = ?) RETURNING user_id, seq, epoch
  ), task AS (
    UPDATE tasks SET ${assignments} FROM stream WHERE tasks.task_id = ? AND tasks.user_id = stream.user_id
    RETURNING ${UPDATED_ROW}
  ) ${logged(type, `?::jsonb ${BESIDE[type]}`, 'clock_timestamp()')}`,
    bindings: [taskId, ...values, taskId, JSON.stringify(fields)],
  };
}
