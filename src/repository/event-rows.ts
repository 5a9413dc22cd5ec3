import { changesText, type EventType, type TaskEvent } from '../protocol/events.js';
import type { ReplayState } from './log.js';
import { isoText } from './task-json.js';

/** An event as `EVENT` selects it. */
export interface EventRow {
  seq: string;
  job_id: string;
  task_id: string;
  type: EventType;
  changes: string;
  timestamp: string;
  published: boolean;
}

/** A stream's state as `STATE` selects it. */
export interface StateRow {
  epoch: string;
  head: string;
  floor: string | null;
}

/** Where a stream stands and what is left of its log, each by one look at an index. */
export const STATE = `s.epoch, s.seq AS head,
  (SELECT e.seq - 1 FROM task_events e WHERE e.user_id = s.user_id ORDER BY e.seq LIMIT 1) AS floor`;

/** What is selected of a row `e` of the log. */
export const EVENT = `e.seq, e.job_id::text AS job_id, e.task_id, e.type, e.changes::text AS changes, e.published,
  ${isoText('e.created_at')} AS timestamp`;

export function stateOf({ epoch, head, floor }: StateRow): ReplayState {
  const seq = Number(head);
  // An empty log reaches back to nothing but the head.
  return { epoch, seq, floor: floor === null ? seq : Number(floor) };
}

export function eventOf(userId: string, epoch: string, row: EventRow): TaskEvent {
  const { type, seq, job_id: jobId, task_id: taskId, changes, timestamp } = row;
  const ids = { userId, jobId, taskId: Number(taskId) };
  const event = { type, seq: Number(seq), epoch, ...ids, changes: changesText(ids, changes), timestamp };
  return row.published ? event : { ...event, unpublished: true };
}
