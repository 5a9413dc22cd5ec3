import type { EventType } from '../protocol/events.js';
import { INITIAL_TASK_STATUS } from '../protocol/tasks.js';
import { isoText } from './task-json.js';

type Binding = unknown;

/** One SQL statement with its bindings in the order of its question marks. */
export interface Statement {
  readonly sql: string;
  readonly bindings: readonly Binding[];
}

/** What a write returns; the last four are null where nothing was logged. */
export interface WriteRow {
  task_id: string;
  job_id: string;
  user_id: string;
  seq: string | null;
  epoch: string | null;
  changes: string | null;
  timestamp: string | null;
}

/** A column that a write sets, and the type that its binding is read as. */
export interface Assignment {
  readonly column: string;
  readonly type: string;
  readonly value: Binding;
}

/** What an event says beside the ids: SQL of a jsonb object over the written row `task`, and its bindings. */
export interface Changes {
  readonly sql: string;
  readonly bindings: readonly Binding[];
}

const IDS = `jsonb_build_object('task_id', task.task_id, 'job_id', task.job_id::text, 'user_id', task.user_id)`;

/** The counter row first: it stays locked until commit, so `seq` order is commit order, and all locks are taken in one order. */
const RAISE = `UPDATE event_streams SET seq = seq + 1`;

/** SQLSTATE of a statement that raised the counter for a row that went away meanwhile; it has changed nothing. */
export const VANISHED = '22012';

/**
 * The event of the written row and the statement's answer. A counter that was raised without an event would be a hole
 * that readers wait at for ever, so the statement then divides by zero and fails as a whole.
 */
function logAndAnswer(type: EventType, changes: Changes): Statement {
  return {
    sql: `
    event AS (
      INSERT INTO task_events (user_id, seq, job_id, task_id, type, changes, created_at)
      SELECT stream.user_id, stream.seq, task.job_id, task.task_id, '${type}', ${IDS} || ${changes.sql}, task.written_at
      FROM task, stream
      RETURNING seq, changes::text AS changes, ${isoText('created_at')} AS timestamp
    )
    SELECT task.task_id, task.job_id::text AS job_id, task.user_id, stream.epoch, event.seq, event.changes,
      event.timestamp, 1 / (event.seq IS NOT NULL)::int AS logged
    FROM stream LEFT JOIN task ON true LEFT JOIN event ON true`,
    bindings: changes.bindings,
  };
}

const UNLOGGED = `
    SELECT task.task_id, task.job_id::text AS job_id, task.user_id,
      NULL AS epoch, NULL AS seq, NULL AS changes, NULL AS timestamp
    FROM task`;

/**
 * Inserts a task of an existing job. Without the job no row is changed and none is returned.
 * @param logged whether the owner's stream gets the event
 */
export function insertTask(
  input: { job_id: string; task_definition_id: number; is_imua: boolean },
  logged: boolean,
): Statement {
  const { job_id, task_definition_id, is_imua } = input;
  const insert = (source: string): string => `
    task AS (
      INSERT INTO tasks (job_id, user_id, task_definition_id, is_imua, task_status, created_at)
      SELECT ?::numeric, source.user_id, ?::bigint, ?::boolean, '${INITIAL_TASK_STATUS}', clock_timestamp()
      FROM ${source} source
      RETURNING task_id, job_id, user_id, task_definition_id, is_imua, created_at, created_at AS written_at
    )`;
  const values = [job_id, task_definition_id, is_imua];
  if (!logged) {
    return {
      sql: `WITH ${insert('(SELECT user_id FROM jobs WHERE job_id = ?::numeric)')} ${UNLOGGED}`,
      bindings: [...values, job_id],
    };
  }
  const log = logAndAnswer('TASK_CREATED', {
    sql: `jsonb_build_object('task_definition_id', task.task_definition_id, 'is_imua', task.is_imua,
      'created_at', ${isoText('task.created_at')})`,
    bindings: [],
  });
  return {
    sql: `
    WITH stream AS (
      ${RAISE} WHERE user_id = (SELECT user_id FROM jobs WHERE job_id = ?::numeric) RETURNING user_id, seq, epoch
    ), ${insert('stream')}, ${log.sql}`,
    bindings: [job_id, ...values],
  };
}

/**
 * Updates a task. Without the task no row is changed and none is returned.
 *
 * The old row is read `FOR UPDATE` after the counter, because it joins on the counter's result: a plain read would show
 * what was there before this statement waited for the counter. So `task.old_status` and `task.old_fee` are true.
 * @param set at least one column
 * @param event what the owner's stream gets; undefined: nothing is logged
 */
export function updateTask(
  taskId: number,
  set: readonly Assignment[],
  event: { readonly type: EventType; readonly changes: Changes } | undefined,
): Statement {
  const assignments = set.map(({ column, type }) => `${column} = ?::${type}`).join(', ');
  const values = set.map(({ value }) => value);
  if (event === undefined) {
    return {
      sql: `WITH task AS (UPDATE tasks SET ${assignments} WHERE task_id = ? RETURNING task_id, job_id, user_id) ${UNLOGGED}`,
      bindings: [...values, taskId],
    };
  }
  const log = logAndAnswer(event.type, event.changes);
  return {
    sql: `
    WITH stream AS (
      ${RAISE} WHERE user_id = (SELECT user_id FROM tasks WHERE task_id = ?) RETURNING user_id, seq, epoch
    ), old AS (
      SELECT tasks.task_id, tasks.task_status, tasks.task_opx_cost
      FROM stream JOIN tasks ON tasks.user_id = stream.user_id AND tasks.task_id = ?
      FOR UPDATE OF tasks
    ), task AS (
      UPDATE tasks SET ${assignments} FROM old WHERE tasks.task_id = old.task_id
      RETURNING tasks.task_id, tasks.job_id, tasks.user_id,
        old.task_status AS old_status, old.task_opx_cost AS old_fee, clock_timestamp() AS written_at
    ), ${log.sql}`,
    bindings: [taskId, taskId, ...values, ...log.bindings],
  };
}
