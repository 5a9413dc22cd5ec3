import { INITIAL_TASK_STATUS } from '../protocol/tasks.js';
import { COLUMN_TYPES, type Patch } from './task-patch.js';
import type { WriteKey } from './write-keys.js';
import {
  type Announcement,
  EVENT_COLUMNS,
  KEY_COLUMNS,
  loggedRow,
  NEW_MARK,
  NEXT_MARK,
  type Statement,
  UNLOGGED,
} from './write-statements.js';

/*
 * A batch is one statement over `input`: the items that can be written, numbered from 1 in `place`. Their rows are locked
 * first, in order of their ids; then the counter is raised by as many as there are items, which get the numbers in their
 * order, all of them with the time at which the counter was held.
 */

const STREAM = `stream AS (
    UPDATE event_streams SET seq = seq + (SELECT count(*) FROM task)
    WHERE user_id = ? AND EXISTS (SELECT FROM task)
    RETURNING epoch, seq - (SELECT count(*) FROM task) AS base, clock_timestamp() AS written_at
  )`;

/** The idempotency key of each item, in their order; undefined for an item without one. */
export type ItemKeys = ReadonlyArray<WriteKey | undefined>;

function finish(announcement: Announcement, keys: ItemKeys): string {
  if (announcement === 'silent') {
    return `${UNLOGGED} ORDER BY place`;
  }
  const log = `
  INSERT INTO task_events (${EVENT_COLUMNS})
  SELECT task.user_id, stream.base + task.place, task.job_id, task.task_id, task.type, task.said, stream.written_at,
    ${announcement === 'published'}
  FROM task LEFT JOIN stream ON true
  ORDER BY task.place
  RETURNING ${loggedRow(announcement)}`;
  return keys.every((key) => key === undefined)
    ? `, ${STREAM}${log}`
    : `, ${STREAM}, kept AS (
    INSERT INTO write_keys (${KEY_COLUMNS})
    SELECT item.key, item.fingerprint, task.task_id, task.job_id, task.user_id, stream.base + task.place, stream.epoch
    FROM stream, task JOIN unnest(?::text[], ?::text[]) WITH ORDINALITY AS item (key, fingerprint, ord) USING (ord)
    WHERE item.key IS NOT NULL ORDER BY item.key
  )${log}`;
}

function finishBindings(owner: string, announcement: Announcement, keys: ItemKeys): unknown[] {
  if (announcement === 'silent') {
    return [];
  }
  return keys.every((key) => key === undefined)
    ? [owner]
    : [owner, keys.map((key) => key?.key ?? null), keys.map((key) => key?.fingerprint ?? null)];
}

/** Inserts tasks of jobs of one owner, in order; items whose job is not the owner's are left out. */
export function insertTasks(
  owner: string,
  items: ReadonlyArray<{ job_id: string; task_definition_id: number; is_imua: boolean }>,
  announcement: Announcement,
  keys: ItemKeys = [],
): Statement {
  const jobIds = items.map(({ job_id }) => job_id);
  return {
    sql: `
  WITH held AS MATERIALIZED (
    SELECT job_id FROM jobs WHERE job_id = ANY(?::numeric[]) AND user_id = ? ORDER BY job_id FOR KEY SHARE
  ), input AS MATERIALIZED (
    SELECT item.*, row_number() OVER (ORDER BY item.ord) AS place
    FROM unnest(?::numeric[], ?::bigint[], ?::boolean[])
      WITH ORDINALITY AS item (job_id, task_definition_id, is_imua, ord)
    JOIN held USING (job_id)
  ), made AS (
    INSERT INTO tasks (job_id, user_id, task_definition_id, is_imua, task_status, created_at, write_mark)
    SELECT job_id, ?, task_definition_id, is_imua, '${INITIAL_TASK_STATUS}', (SELECT clock_timestamp()), ${NEW_MARK}
    FROM input ORDER BY place
    RETURNING task_id, job_id, user_id, taskwire_row(tasks) AS said
  ), task AS (
    -- Ids are drawn in the order of the items.
    SELECT made.*, 'TASK_CREATED' AS type, input.ord
    FROM (SELECT made.*, row_number() OVER (ORDER BY task_id) AS place FROM made) made JOIN input USING (place)
  )${finish(announcement, keys)}`,
    bindings: [
      jobIds,
      owner,
      jobIds,
      items.map(({ task_definition_id }) => task_definition_id),
      items.map(({ is_imua }) => is_imua),
      owner,
      ...finishBindings(owner, announcement, keys),
    ],
  };
}

/** SQL that sets columns from `input.patch`. Where rows set different columns, a column that a row does not set keeps its value. */
function assignments(columns: readonly string[], uniform: boolean): string {
  return columns
    .map((column) => {
      const value =
        COLUMN_TYPES[column] === 'jsonb'
          ? `input.patch -> '${column}'`
          : `(input.patch ->> '${column}')::${COLUMN_TYPES[column]}`;
      return uniform
        ? `${column} = ${value}`
        : `${column} = CASE WHEN input.patch -> '${column}' IS NULL THEN tasks.${column} ELSE ${value} END`;
    })
    .join(', ');
}

/**
 * Updates tasks of one owner; the rows are in order, items whose task is not the owner's are left out. A task that several
 * items name is written once, with what they come to, and has an event of each.
 */
export function updateTasks(
  owner: string,
  patches: readonly Patch[],
  announcement: Announcement,
  keys: ItemKeys = [],
): Statement {
  const rows = new Map<number, Record<string, unknown>>();
  // The old values of an item, where an earlier item of this batch has set them. Otherwise the row in the database has them.
  const replaced = patches.map(({ taskId, fields }) => {
    const row = rows.get(taskId) ?? {};
    const { task_status, task_opx_cost } = row;
    rows.set(taskId, Object.assign(row, fields));
    return JSON.stringify({ task_status, task_opx_cost });
  });
  // The text of the SQL takes few forms: one for each set of columns that all rows have, and one for the rest.
  const merged = [...rows.values()];
  const columns = Object.keys(COLUMN_TYPES).filter((column) => column in (merged[0] ?? {}));
  const uniform = merged.every(
    (fields) => Object.keys(fields).length === columns.length && columns.every((column) => column in fields),
  );
  const taskIds = [...rows.keys()];
  return {
    sql: `
  WITH held AS MATERIALIZED (
    SELECT task_id, job_id, user_id, task_status, task_opx_cost FROM tasks
    WHERE task_id = ANY(?::bigint[]) AND user_id = ? ORDER BY task_id FOR NO KEY UPDATE
  ), written AS (
    UPDATE tasks SET ${assignments(uniform ? columns : Object.keys(COLUMN_TYPES), uniform)}, write_mark = ${NEXT_MARK}
    FROM (
      SELECT row.* FROM unnest(?::bigint[], ?::jsonb[]) AS row (task_id, patch) JOIN held USING (task_id)
    ) input
    WHERE tasks.task_id = input.task_id
  ), task AS MATERIALIZED (
    SELECT held.task_id, held.job_id, held.user_id, item.type, item.ord, row_number() OVER (ORDER BY item.ord) AS place,
      item.said || CASE item.type
        WHEN 'TASK_FEE_UPDATED' THEN
          jsonb_build_object('old_fee', coalesce(item.replaced -> 'task_opx_cost', to_jsonb(held.task_opx_cost)))
        WHEN 'TASK_STATUS_CHANGED' THEN
          jsonb_build_object('old_status', coalesce(item.replaced -> 'task_status', to_jsonb(held.task_status)))
        ELSE '{}'
      END AS said
    FROM unnest(?::bigint[], ?::text[], ?::jsonb[], ?::jsonb[])
      WITH ORDINALITY AS item (task_id, type, said, replaced, ord)
    JOIN held USING (task_id)
  )${finish(announcement, keys)}`,
    bindings: [
      taskIds,
      owner,
      taskIds,
      merged.map((fields) => JSON.stringify(fields)),
      patches.map(({ taskId }) => taskId),
      patches.map(({ type }) => type),
      patches.map(({ said }) => JSON.stringify(said)),
      replaced,
      ...finishBindings(owner, announcement, keys),
    ],
  };
}
