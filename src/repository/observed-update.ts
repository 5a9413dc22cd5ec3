import type { EventType } from '../protocol/events.js';
import type { Patch } from './task-patch.js';
import {
  assignmentsOf,
  EVENT_COLUMNS,
  guard,
  KEY_COLUMNS,
  keyBindings,
  loggedRow,
  type Manner,
  NEXT_MARK,
  type Statement,
  withKey,
} from './write-statements.js';

/** Which events say only some fields, of which kind: SQL of the condition. Others are a TASK_UPDATED. */
const FITS: Readonly<Partial<Record<EventType, string>>> = {
  TASK_STATUS_CHANGED: `said - ARRAY['task_status', 'task_number', 'task_submission_tx_hash'] = '{}'`,
  TASK_FEE_UPDATED: `said - 'task_opx_cost' = '{}' AND said -> 'task_opx_cost' <> 'null'`,
};

/** What those events say besides. */
const BESIDES: Readonly<Partial<Record<EventType, string>>> = {
  TASK_STATUS_CHANGED: `jsonb_build_object('old_status', was -> 'task_status', 'new_status', is_now -> 'task_status')`,
  TASK_FEE_UPDATED: `jsonb_build_object('old_fee', was -> 'task_opx_cost', 'new_fee', is_now -> 'task_opx_cost')`,
};

/**
 * Updates a task whose row may become another one than was asked for, because a trigger of the operator has a hand in it. The event
 * says what the row has become: the fields that the write names, and whatever else is different. A task that comes out in
 * another job, with another user or id is deleted there and created here; the write is answered with the first of the two events.
 *
 * A trigger that brings back the old row takes the mark away too: what is different then is captured, and the event says what was.
 *
 * The old row is locked and read first, which an update that nobody changes is spared.
 * @param owner whose the task has to be; undefined: anybody's
 */
export function observedUpdate(patch: Patch, manner: Manner, owner?: string): Statement {
  const { taskId, type, said } = patch;
  const { announcement, key } = manner;
  const { seen, unseen, bindings } = guard(manner);
  const { sql, values } = assignmentsOf(patch);
  const fits = FITS[type] ?? 'true';
  const log = `
  INSERT INTO task_events (${EVENT_COLUMNS})
  SELECT event.user_id, stream.base + row_number() OVER (PARTITION BY event.user_id ORDER BY event.part), event.job_id,
    event.task_id, event.type, event.said, clock_timestamp(), ${announcement === 'published'}
  FROM event LEFT JOIN stream USING (user_id) WHERE EXISTS (SELECT FROM checked)
  ORDER BY event.part
  RETURNING ${loggedRow(announcement, '(SELECT epoch FROM stream WHERE stream.user_id = task_events.user_id)')}`;
  const kept = `
    INSERT INTO write_keys (${KEY_COLUMNS})
    SELECT ?, ?, event.task_id, event.job_id, event.user_id, stream.base + 1, stream.epoch
    FROM event JOIN stream USING (user_id) ORDER BY event.part LIMIT 1`;
  return {
    sql: `
  WITH ${seen}old AS MATERIALIZED (
    SELECT task_id, job_id, user_id, taskwire_row(tasks) AS was, ${NEXT_MARK} AS mark
    FROM tasks WHERE task_id = ?${owner === undefined ? '' : ' AND user_id = ?'}${unseen} FOR NO KEY UPDATE
  ), task AS (
    UPDATE tasks SET ${sql}, write_mark = old.mark
    FROM old WHERE tasks.task_id = old.task_id
    RETURNING tasks.task_id, tasks.job_id, tasks.user_id,
      old.task_id AS old_task, old.job_id AS old_job, old.user_id AS old_user, old.was,
      CASE WHEN tasks.write_mark = old.mark THEN taskwire_row(tasks) ELSE old.was END AS is_now,
      tasks.write_mark = old.mark AND
        (tasks.task_id, tasks.job_id, tasks.user_id) <> (old.task_id, old.job_id, old.user_id) AS moved
  ), difference AS (
    SELECT task.*, (
      SELECT jsonb_object_agg(f.key, f.value) FROM jsonb_each(is_now) f
      WHERE f.key = ANY(?::text[]) OR f.value IS DISTINCT FROM was -> f.key
    ) AS said
    FROM task
  ), event AS MATERIALIZED (
    SELECT 1 AS part, old_user AS user_id, old_job AS job_id, old_task AS task_id, 'TASK_DELETED' AS type,
      jsonb_build_object('old_status', was -> 'task_status', 'old_fee', was -> 'task_opx_cost') AS said
    FROM difference WHERE moved
    UNION ALL
    SELECT 2, user_id, job_id, task_id, 'TASK_CREATED', is_now FROM difference WHERE moved
    UNION ALL
    SELECT 2, old_user, old_job, old_task, CASE WHEN ${fits} THEN '${type}' ELSE 'TASK_UPDATED' END,
      CASE WHEN ${fits} THEN said || ${BESIDES[type] ?? `'{}'`} ELSE said END
    FROM difference WHERE NOT moved
  ), checked AS MATERIALIZED (
    SELECT taskwire_check_told(max(ARRAY[octet_length(said::text), task_id]), max(taskwire_unheard(task_id, job_id)))
    FROM event
  ), stream AS (
    UPDATE event_streams SET seq = seq + told.total
    FROM (SELECT user_id, count(*) AS total FROM event GROUP BY user_id) told WHERE event_streams.user_id = told.user_id
    RETURNING event_streams.user_id, epoch, seq - told.total AS base
  )${withKey(manner, log, kept)}`,
    bindings: [
      ...bindings,
      taskId,
      ...(owner === undefined ? [] : [owner]),
      ...values,
      Object.keys(said),
      ...keyBindings({ key }),
    ],
  };
}
