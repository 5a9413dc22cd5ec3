import { INITIAL_TASK_STATUS } from '../protocol/tasks.js';
import { isoText } from './task-json.js';
import { COLUMN_TYPES, type Patch } from './task-patch.js';
import { BESIDE, LOGGED_ROW, type Statement, settings, UNLOGGED, UPDATED_ROW } from './task-writes.js';

/*
 * A batch is one statement over `input`: the items that can be written, numbered from 1 in `place`. As in a single write
 * the counter comes first; it is raised by as many as there are items, which get the numbers in their order, all of them
 * with the time at which the counter was held. An item whose row went away meanwhile has no ids, which the log does not
 * take (see task-writes.ts).
 */

const LOGGED_STREAM = `stream AS (
    UPDATE event_streams SET seq = seq + (SELECT count(*) FROM input)
    WHERE user_id = ? AND EXISTS (SELECT FROM input)
    RETURNING user_id, epoch, seq - (SELECT count(*) FROM input) AS base, clock_timestamp() AS written_at
  )`;

const UNLOGGED_STREAM = `stream AS MATERIALIZED (
    SELECT ?::text AS user_id, NULL::text AS epoch, 0 AS base, clock_timestamp() AS written_at
  )`;

const LOG = `
  INSERT INTO task_events (user_id, seq, job_id, task_id, type, changes, created_at)
  SELECT stream.user_id, stream.base + input.place, task.job_id, task.task_id, task.type, task.said, stream.written_at
  FROM stream JOIN input ON true LEFT JOIN task ON task.place = input.place
  ORDER BY input.place
  RETURNING ${LOGGED_ROW}`;

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
    )${withEvents ? LOG : `${UNLOGGED} ORDER BY place`}`,
    bindings: [
      items.map(({ job_id }) => job_id),
      items.map(({ task_definition_id }) => task_definition_id),
      items.map(({ is_imua }) => is_imua),
      owner,
      owner,
    ],
  };
}

/** SQL that sets columns from `input.patch`; where items differ in their columns, to what they were in those without. */
function assignments(columns: readonly string[], uniform: boolean): string {
  const value = (column: string): string =>
    COLUMN_TYPES[column] === 'jsonb'
      ? `input.patch -> '${column}'`
      : `(input.patch ->> '${column}')::${COLUMN_TYPES[column]}`;
  return settings(columns, value)
    .map(({ column, target, to }) =>
      uniform
        ? `${target} = ${to}`
        : `${target} = CASE WHEN input.patch -> '${column}' IS NULL THEN tasks.${target} ELSE ${to} END`,
    )
    .join(', ');
}

/**
 * Updates tasks of one owner; the rows are in order, items whose task is not the owner's are left out.
 * @param patches of different tasks
 */
export function updateTasks(owner: string, patches: readonly Patch[], withEvents: boolean): Statement {
  // The text of the SQL takes few forms: one for each set of columns that all items have, and one for the rest.
  const [first] = patches;
  const columns = Object.keys(COLUMN_TYPES).filter((column) => column in (first?.fields ?? {}));
  const uniform = patches.every(
    ({ fields }) => Object.keys(fields).length === columns.length && columns.every((column) => column in fields),
  );
  return {
    sql: `
  WITH ${ownInput(
    `unnest(?::bigint[], ?::text[], ?::jsonb[]) WITH ORDINALITY AS item (task_id, type, patch, ord)`,
    'tasks',
    'task_id',
  )}, ${withEvents ? LOGGED_STREAM : UNLOGGED_STREAM}, written AS (
      UPDATE tasks SET ${assignments(uniform ? columns : Object.keys(COLUMN_TYPES), uniform)}
      FROM stream, input WHERE tasks.task_id = input.task_id AND tasks.user_id = stream.user_id
      RETURNING ${UPDATED_ROW}, input.type, input.place, input.patch
    ), task AS (
      SELECT task.*, CASE type
          WHEN 'TASK_FEE_UPDATED' THEN patch ${BESIDE.TASK_FEE_UPDATED}
          WHEN 'TASK_STATUS_CHANGED' THEN patch ${BESIDE.TASK_STATUS_CHANGED}
          ELSE patch
        END AS said
      FROM written task
    )${withEvents ? LOG : `${UNLOGGED} ORDER BY place`}`,
    bindings: [
      patches.map(({ taskId }) => taskId),
      patches.map(({ type }) => type),
      patches.map(({ fields }) => JSON.stringify(fields)),
      owner,
      owner,
    ],
  };
}
