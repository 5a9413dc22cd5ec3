import type { EventType } from '../protocol/events.js';
import { INITIAL_TASK_STATUS } from '../protocol/tasks.js';
import { rowsAreOurs } from './foreign-triggers.js';
import { isoText } from './task-json.js';
import { COLUMN_TYPES, type Patch } from './task-patch.js';
import type { WriteKey } from './write-keys.js';

/** One SQL statement with its bindings in the order of its question marks. */
export interface Statement {
  readonly sql: string;
  readonly bindings: readonly unknown[];
}

/** What a statement returns for each task that it wrote; `stamp` and `changes` are null where nothing was logged. */
export interface WriteRow {
  /** Set when the same idempotency key was used before: the fingerprint of that write. */
  fingerprint?: string | null;
  task_id: string;
  job_id: string;
  user_id: string;
  /** `{type} {seq} {epoch} {timestamp}`: one text, because the driver spends more on a column than this takes. */
  stamp: string | null;
  changes: string | null;
}

/**
 * What becomes of a write's event.
 *
 * - `published`: it is logged, and a publisher is told once it is committed.
 * - `unpublished`: it is logged, and its commit wakes whoever listens to the database.
 * - `silent`: no event is made. No subscriber learns of the write.
 */
export type Announcement = 'published' | 'unpublished' | 'silent';

/** How one write is made. */
export interface Manner {
  readonly announcement: Announcement;
  /** Idempotency key: the write is made once, however often it is asked for. Silent writes have none. */
  readonly key?: WriteKey | undefined;
  /** Makes no write: answers only what was made before under the key. */
  readonly onlyAgain?: boolean | undefined;
}

/*
 * The order of locks is: task rows by `task_id`, then the counter. Other programs' transactions meet them in that order
 * too, as their changes take the counter when they commit (see capture-schema.ts). The counter stays locked until the
 * commit, so that `seq` order is commit order.
 */

/** SQL that marks a written row as logged by its own statement, so that it is not captured (see capture-schema.ts). */
export const NEW_MARK = 'txid_current() << 20';
export const NEXT_MARK =
  'CASE WHEN tasks.write_mark >> 20 = txid_current() THEN tasks.write_mark + 1 ELSE txid_current() << 20 END';

/**
 * What the log gives back of a written event: a `WriteRow`.
 * @param epoch SQL of the stream's epoch
 */
export const loggedRow = (announcement: Announcement, epoch = '(SELECT epoch FROM stream)'): string =>
  `task_id, job_id::text AS job_id, user_id, changes::text AS changes,
    concat_ws(' ', type, seq, ${epoch}, ${isoText('created_at')}) AS stamp${
      announcement === 'unpublished' ? ', pg_notify(taskwire_channel(), user_id)' : ''
    }`;

/** Columns of an event of the log. */
export const EVENT_COLUMNS = 'user_id, seq, job_id, task_id, type, changes, created_at, published';

/** SQL that returns a `WriteRow` of each written row, where nothing is logged. */
export const UNLOGGED = `
  SELECT task_id, job_id::text AS job_id, user_id, NULL AS changes, NULL AS stamp FROM task`;

/** SQL that looks the idempotency key up before a write, and the condition that it was not there. */
export const guard = ({
  key,
  onlyAgain,
}: Manner): { readonly seen: string; readonly unseen: string; readonly bindings: unknown[] } =>
  key === undefined
    ? { seen: '', unseen: onlyAgain ? ' AND false' : '', bindings: [] }
    : {
        seen: 'seen AS MATERIALIZED (SELECT * FROM write_keys WHERE key = ?), ',
        unseen: onlyAgain ? ' AND false' : ' AND NOT EXISTS (SELECT FROM seen)',
        bindings: [key.key],
      };

/** Columns of a write that is kept under its idempotency key. */
export const KEY_COLUMNS = 'key, fingerprint, task_id, job_id, user_id, seq, epoch';

/**
 * SQL that raises the counter of the stream and logs the written row.
 *
 * The whole write fails when the user has no stream, since the log takes no event without a number. It also fails when
 * another write with the same idempotency key commits at the same time, since the key exists then.
 * @param said SQL of what the event says beside the ids: jsonb
 * @param where SQL of a condition that holds
 */
function finish({ announcement, key }: Manner, type: EventType, said: string, where = ''): string {
  if (announcement === 'silent') {
    return `${UNLOGGED} ${where}`;
  }
  const stream = `, stream AS (
    UPDATE event_streams SET seq = seq + 1 WHERE user_id = (SELECT user_id FROM task) RETURNING seq, epoch
  )`;
  const log = `
  INSERT INTO task_events (${EVENT_COLUMNS})
  SELECT task.user_id, stream.seq, task.job_id, task.task_id, '${type}', ${said}, clock_timestamp(),
    ${announcement === 'published'}
  FROM task LEFT JOIN stream ON true ${where}
  RETURNING ${loggedRow(announcement)}`;
  const kept = `
    INSERT INTO write_keys (${KEY_COLUMNS})
    SELECT ?, ?, task.task_id, task.job_id, task.user_id, stream.seq, stream.epoch FROM task, stream`;
  return stream + withKey({ key }, log, kept);
}

/**
 * The end of a statement that `guard` begins.
 * @param log SQL that logs what was written, and returns it
 * @param kept SQL that keeps it under the key
 */
export const withKey = ({ key }: Pick<Manner, 'key'>, log: string, kept: string): string =>
  key === undefined
    ? log
    : `, logged AS (${log}
  ), kept AS (${kept}
  )
  SELECT task_id, job_id, user_id, changes, stamp, NULL AS fingerprint FROM logged
  UNION ALL
  SELECT task_id, job_id::text, user_id, NULL, concat_ws(' ', '-', seq, epoch), fingerprint FROM seen`;

export const keyBindings = ({ key }: Pick<Manner, 'key'>): unknown[] =>
  key === undefined ? [] : [key.key, key.fingerprint];

/**
 * Inserts a task of an existing job. Without the job no row is changed and none is returned.
 * @param owner whose the job has to be; undefined: anybody's
 */
export function insertTask(
  input: { job_id: string; task_definition_id: number; is_imua: boolean },
  manner: Manner,
  owner?: string,
): Statement {
  const { job_id, task_definition_id, is_imua } = input;
  const { seen, unseen, bindings } = guard(manner);
  return {
    // The job is locked before the counter, in the same order as by somebody who deletes the job.
    sql: `
  WITH ${seen}task AS (
    INSERT INTO tasks (job_id, user_id, task_definition_id, is_imua, task_status, created_at, write_mark)
    SELECT job_id, user_id, ?::bigint, ?::boolean, '${INITIAL_TASK_STATUS}', clock_timestamp(), ${NEW_MARK}
    FROM jobs WHERE job_id = ?::numeric${owner === undefined ? '' : ' AND user_id = ?'}${unseen} FOR KEY SHARE
    RETURNING task_id, job_id, user_id, taskwire_row(tasks) AS said
  )${finish(manner, 'TASK_CREATED', 'task.said')}`,
    bindings: [
      ...bindings,
      task_definition_id,
      is_imua,
      job_id,
      ...(owner === undefined ? [] : [owner]),
      ...keyBindings(manner),
    ],
  };
}

/** What an update's event says of the value that it replaces. */
interface Replaced {
  /** The column that it sets. */
  readonly column: string;
  /** The column that keeps its old value. */
  readonly previous: string;
  /** The name of the old value in the event. */
  readonly name: string;
}

/** What each event says so; the others say nothing of the kind. */
export const REPLACED: Readonly<Partial<Record<EventType, Replaced>>> = {
  TASK_STATUS_CHANGED: { column: 'task_status', previous: 'previous_status', name: 'old_status' },
  TASK_FEE_UPDATED: { column: 'task_opx_cost', previous: 'previous_opx_cost', name: 'old_fee' },
};

/** Columns that keep what a write replaces in another one, by that one. */
export const PREVIOUS: Readonly<Record<string, string>> = Object.fromEntries(
  Object.values(REPLACED).map(({ column, previous }) => [column, previous]),
);

/** SQL of the old value that an event says: jsonb. */
export const oldValue = ({ name, previous }: Replaced): string => `jsonb_build_object('${name}', ${previous})`;

/** SQL that sets the columns of an update, and keeps what it replaces. */
export function assignmentsOf({ fields }: Patch): { readonly sql: string; readonly values: readonly unknown[] } {
  const columns = Object.keys(fields);
  const assignments = columns.flatMap((column) => {
    const set = `${column} = ?::${COLUMN_TYPES[column]}`;
    const previous = PREVIOUS[column];
    return previous === undefined ? [set] : [set, `${previous} = tasks.${column}`];
  });
  const values = columns.map((column) =>
    COLUMN_TYPES[column] === 'jsonb' ? JSON.stringify(fields[column]) : fields[column],
  );
  return { sql: assignments.join(', '), values };
}

/**
 * Updates a task. Without the task no row is changed and none is returned; the same where a trigger may change what the event
 * would say (see observed-update.ts).
 *
 * Old values come from the row itself, where the update keeps them in `previous_...` columns. A SELECT in the same
 * statement would not do: when the statement had to wait for the row, it shows values from before the wait.
 */
export function updateTask(patch: Patch, manner: Manner): Statement {
  const { taskId, type, said } = patch;
  const { seen, unseen, bindings } = guard(manner);
  const replaced = REPLACED[type];
  const { sql, values } = assignmentsOf(patch);
  const ours = manner.announcement === 'silent' ? '' : ` AND ${rowsAreOurs('update')}`;
  return {
    sql: `
  WITH ${seen}task AS (
    UPDATE tasks SET ${sql}, write_mark = ${NEXT_MARK} WHERE task_id = ?${unseen}${ours}
    RETURNING task_id, job_id, user_id${replaced === undefined ? '' : `, ${replaced.previous}`}
  )${finish(manner, type, replaced === undefined ? '?::jsonb' : `?::jsonb || ${oldValue(replaced)}`)}`,
    bindings: [
      ...bindings,
      ...values,
      taskId,
      ...(manner.announcement === 'silent' ? [] : [JSON.stringify(said)]),
      ...keyBindings(manner),
    ],
  };
}

/** Deletes a task. Without the task no row is changed and none is returned. */
export function deleteTask(taskId: number, manner: Manner): Statement {
  const { seen, unseen, bindings } = guard(manner);
  return {
    // This setting tells the capture trigger to ignore the deletion. It is reset in the same statement.
    sql: `
  WITH ${seen}task AS (
    DELETE FROM tasks
    WHERE task_id = ?${unseen} AND (SELECT set_config('taskwire.deleting', ?::bigint::text, true)) IS NOT NULL
    RETURNING task_id, job_id, user_id, task_status, task_opx_cost
  ), done AS MATERIALIZED (
    SELECT set_config('taskwire.deleting', '', true) FROM (SELECT count(*) FROM task) counted
  )${finish(
    manner,
    'TASK_DELETED',
    `jsonb_build_object('old_status', task.task_status, 'old_fee', task.task_opx_cost)`,
    'WHERE EXISTS (SELECT FROM done)',
  )}`,
    bindings: [...bindings, taskId, taskId, ...keyBindings(manner)],
  };
}
