import { INITIAL_TASK_STATUS } from '../protocol/tasks.js';
import { rowsAreOurs } from './foreign-triggers.js';
import { COLUMN_TYPES, type Patch } from './task-patch.js';
import type { WriteKey } from './write-keys.js';
import {
  type Announcement,
  EVENT_COLUMNS,
  KEY_COLUMNS,
  loggedRow,
  NEW_MARK,
  NEXT_MARK,
  oldValue,
  PREVIOUS,
  REPLACED,
  type Statement,
  UNLOGGED,
} from './write-statements.js';

/*
 * A batch is one statement over its items. Those that can be written are numbered from 1 in `place`. Their rows are written, and so
 * locked, first, in order of their ids; then the counter is raised by as many as there are items, which get the numbers in their
 * order, all of them with the time at which the counter was held.
 *
 * Where a trigger of the operator has a hand in what rows become, a batch writes nothing (see foreign-triggers.ts).
 */

const STREAM = `stream AS (
    UPDATE event_streams SET seq = seq + (SELECT count(*) FROM task)
    WHERE user_id = ? AND EXISTS (SELECT FROM task)
    RETURNING epoch, seq - (SELECT count(*) FROM task) AS base, clock_timestamp() AS written_at
  )`;

const PREVIOUS_COLUMNS = Object.values(PREVIOUS).join(', ');
/** Branches of a CASE over an event's type: the old value that it says. */
const OLD_VALUES = Object.entries(REPLACED)
  .map(([type, replaced]) => `WHEN '${type}' THEN ${oldValue(replaced)}`)
  .join(' ');

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
    SELECT job_id FROM jobs WHERE job_id = ANY(?::numeric[]) AND user_id = ? AND ${rowsAreOurs('insert')}
    ORDER BY job_id FOR KEY SHARE
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

/**
 * SQL that sets columns from `input.patch`, and keeps what it replaces, as single updates do. Where rows set different columns, a
 * column that a row does not set keeps its value.
 */
function assignments(columns: readonly string[], uniform: boolean): string {
  return columns
    .flatMap((column) => {
      const value =
        COLUMN_TYPES[column] === 'jsonb'
          ? `input.patch -> '${column}'`
          : `(input.patch ->> '${column}')::${COLUMN_TYPES[column]}`;
      const set = uniform
        ? `${column} = ${value}`
        : `${column} = CASE WHEN input.patch -> '${column}' IS NULL THEN tasks.${column} ELSE ${value} END`;
      const previous = PREVIOUS[column];
      return previous === undefined ? [set] : [set, `${previous} = tasks.${column}`];
    })
    .join(', ');
}

/** A batch of updates, by rows and by items. */
interface Merged {
  /** What each task is to become: the fields of all its items. */
  readonly rows: ReadonlyArray<readonly [taskId: number, fields: Readonly<Record<string, unknown>>]>;
  /** What each item's event says. What an earlier item has set is old there; other old values are in the database. */
  readonly said: ReadonlyArray<Readonly<Record<string, unknown>>>;
}

function merge(patches: readonly Patch[]): Merged {
  const rows = new Map<number, Record<string, unknown>>();
  const said = patches.map((patch) => {
    const row = rows.get(patch.taskId);
    if (row === undefined) {
      rows.set(patch.taskId, { ...patch.fields });
      return patch.said;
    }
    const replaced = REPLACED[patch.type];
    // A field that no earlier item has set is undefined, and so left out of the JSON.
    const old = replaced === undefined ? {} : { [replaced.name]: row[replaced.column] };
    Object.assign(row, patch.fields);
    return { ...patch.said, ...old };
  });
  // Rows are written, and so locked, in this order.
  return { rows: [...rows].sort(([a], [b]) => a - b), said };
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
  const { rows, said } = merge(patches);
  // The text of the SQL takes few forms: one for each set of columns that all rows have, and one for the rest.
  const columns = Object.keys(COLUMN_TYPES).filter((column) => column in (rows[0]?.[1] ?? {}));
  const uniform = rows.every(
    ([, fields]) => Object.keys(fields).length === columns.length && columns.every((column) => column in fields),
  );
  const ours = announcement === 'silent' ? '' : ` AND ${rowsAreOurs('update')}`;
  return {
    // The rows are looked up by their ids one after the other, as pools have no other way to read tables
    // (`SESSION_SETTINGS`). Should a plan lock them in another order, a deadlock is possible, and the write is made again.
    sql: `
  WITH written AS (
    UPDATE tasks SET ${assignments(uniform ? columns : Object.keys(COLUMN_TYPES), uniform)}, write_mark = ${NEXT_MARK}
    FROM unnest(?::bigint[], ?::jsonb[]) AS input (task_id, patch)
    WHERE tasks.task_id = input.task_id AND tasks.user_id = ?${ours}
    RETURNING tasks.task_id, job_id, user_id, ${PREVIOUS_COLUMNS}
  ), task AS MATERIALIZED (
    SELECT task_id, job_id, user_id, item.type, item.ord, row_number() OVER (ORDER BY item.ord) AS place,
      CASE item.type ${OLD_VALUES} ELSE '{}' END || item.said AS said
    FROM unnest(?::bigint[], ?::text[], ?::jsonb[]) WITH ORDINALITY AS item (task_id, type, said, ord)
    JOIN written USING (task_id)
  )${finish(announcement, keys)}`,
    bindings: [
      rows.map(([taskId]) => taskId),
      rows.map(([, fields]) => JSON.stringify(fields)),
      owner,
      patches.map(({ taskId }) => taskId),
      patches.map(({ type }) => type),
      said.map((fields) => JSON.stringify(fields)),
      ...finishBindings(owner, announcement, keys),
    ],
  };
}
