import { INITIAL_TASK_STATUS } from '../protocol/tasks.js';
import { isoText } from './task-json.js';
import { COLUMN_TYPES, type Patch } from './task-patch.js';
import { IDS, type Statement } from './task-writes.js';

/*
 * A batch is one statement over `input`: the items that can be written, numbered from 1 in `place`. As in a single write
 * the counter comes first; it is raised by as many as there are items, which get the numbers in their order, all of them
 * with the time at which the counter was held. See task-writes.ts about the old rows and the division.
 */

const LOGGED_STREAM = `stream AS (
    UPDATE event_streams SET seq = seq + (SELECT count(*) FROM input)
    WHERE user_id = ? AND EXISTS (SELECT FROM input)
    RETURNING user_id, epoch, seq - (SELECT count(*) FROM input) AS base, clock_timestamp() AS written_at
  )`;

const UNLOGGED_STREAM = `stream AS MATERIALIZED (
    SELECT ?::text AS user_id, NULL::text AS epoch, 0 AS base, clock_timestamp() AS written_at
  )`;

const LOG = `, event AS (
    INSERT INTO task_events (user_id, seq, job_id, task_id, type, changes, created_at)
    SELECT stream.user_id, stream.base + task.place, task.job_id, task.task_id, task.type, ${IDS} || task.said,
      stream.written_at
    FROM stream, task
    RETURNING task_id, job_id, user_id, type, seq, changes::text AS changes, ${isoText('created_at')} AS timestamp
  )
  SELECT event.task_id, event.job_id::text AS job_id, event.user_id, event.type, stream.epoch, event.seq, event.changes,
    event.timestamp, 1 / ((SELECT count(*) FROM event) = (SELECT count(*) FROM input))::int AS logged
  FROM stream LEFT JOIN event ON true
  ORDER BY event.seq`;

const ANSWER = `
  SELECT task_id, job_id::text AS job_id, user_id, type, NULL AS epoch, NULL AS seq, NULL AS changes, NULL AS timestamp
  FROM task ORDER BY place`;

/**
 * The items whose row is the owner's. OFFSET 0 has each row looked up by its id; otherwise all rows of the owner may be
 * read to be joined.
 */
const ownInput = (items: string, table: 'jobs' | 'tasks', id: string): string => `input AS MATERIALIZED (
    SELECT item.*, row_number() OVER (ORDER BY item.ord) AS place
    FROM ${items},
      LATERAL (SELECT user_id FROM ${table} WHERE ${table}.${id} = item.${id} OFFSET 0) AS owner
    WHERE owner.user_id = ?
  )`;

/** Inserts tasks of jobs of one owner, in order; items whose job is not the owner's are left out. */
export function insertTasks(
  owner: string,
  items: ReadonlyArray<{ job_id: string; task_definition_id: number; is_imua: boolean }>,
  withEvents: boolean,
): Statement {
  return {
    sql: `
  WITH ${ownInput(
    `unnest(?::numeric[], ?::bigint[], ?::boolean[]) WITH ORDINALITY AS item (job_id, task_definition_id, is_imua, ord)`,
    'jobs',
    'job_id',
  )}, ${withEvents ? LOGGED_STREAM : UNLOGGED_STREAM}, made AS (
      INSERT INTO tasks (job_id, user_id, task_definition_id, is_imua, task_status, created_at)
      SELECT input.job_id, stream.user_id, input.task_definition_id, input.is_imua, '${INITIAL_TASK_STATUS}',
        stream.written_at
      FROM stream, input ORDER BY input.place
      RETURNING *
    ), task AS (
      -- Ids are drawn in the order of the items.
      SELECT task_id, job_id, user_id, 'TASK_CREATED' AS type, row_number() OVER (ORDER BY task_id) AS place,
        jsonb_build_object('task_definition_id', task_definition_id, 'is_imua', is_imua,
          'created_at', ${isoText('created_at')}) AS said
      FROM made
    )${withEvents ? LOG : ANSWER}`,
    bindings: [
      items.map(({ job_id }) => job_id),
      items.map(({ task_definition_id }) => task_definition_id),
      items.map(({ is_imua }) => is_imua),
      owner,
      owner,
    ],
  };
}

/** A column keeps its value in the items that do not name it, so that one text of SQL serves all updates. */
const ASSIGNMENTS = Object.entries(COLUMN_TYPES)
  .map(([column, type]) => {
    const value = type === 'jsonb' ? `old.patch -> '${column}'` : `(old.patch ->> '${column}')::${type}`;
    return `${column} = CASE WHEN old.patch -> '${column}' IS NULL THEN tasks.${column} ELSE ${value} END`;
  })
  .join(', ');

/**
 * Updates tasks of one owner; the rows are in order, items whose task is not the owner's are left out.
 * @param patches of different tasks
 */
export function updateTasks(owner: string, patches: readonly Patch[], withEvents: boolean): Statement {
  return {
    sql: `
  WITH ${ownInput(
    `unnest(?::bigint[], ?::text[], ?::jsonb[]) WITH ORDINALITY AS item (task_id, type, patch, ord)`,
    'tasks',
    'task_id',
  )}, ${withEvents ? LOGGED_STREAM : UNLOGGED_STREAM}, old AS (
      SELECT input.task_id, input.type, input.patch, input.place,
        tasks.task_status AS old_status, tasks.task_opx_cost AS old_fee
      FROM stream, input JOIN tasks ON tasks.task_id = input.task_id
      FOR UPDATE OF tasks
    ), task AS (
      UPDATE tasks SET ${ASSIGNMENTS} FROM old WHERE tasks.task_id = old.task_id
      RETURNING tasks.task_id, tasks.job_id, tasks.user_id, old.type, old.place,
        old.patch || CASE old.type
          WHEN 'TASK_FEE_UPDATED' THEN jsonb_build_object('old_fee', old.old_fee, 'new_fee', tasks.task_opx_cost)
          WHEN 'TASK_STATUS_CHANGED'
            THEN jsonb_build_object('old_status', old.old_status, 'new_status', tasks.task_status)
          ELSE '{}'
        END AS said
    )${withEvents ? LOG : ANSWER}`,
    bindings: [
      patches.map(({ taskId }) => taskId),
      patches.map(({ type }) => type),
      patches.map(({ fields }) => JSON.stringify(fields)),
      owner,
      owner,
    ],
  };
}
