import type { TaskRow } from './tasks.js';

/** The four events of the specification, and one of ours. */
export const EVENT_TYPES = [
  'TASK_CREATED',
  'TASK_UPDATED',
  'TASK_STATUS_CHANGED',
  'TASK_FEE_UPDATED',
  'TASK_DELETED',
] as const;
export type EventType = (typeof EVENT_TYPES)[number];

/** A committed event of one stream, as the log keeps it. `changes` is JSON text: it is carried, never printed again. */
export interface TaskEvent {
  readonly type: EventType;
  readonly userId: string;
  /** Position in the user's stream: gapless, in commit order, from 1. */
  readonly seq: number;
  /** The stream's epoch: a random word made with its counter row. */
  readonly epoch: string;
  readonly jobId: string;
  readonly taskId: number;
  /** JSON text of the `changes` object. */
  readonly changes: string;
  /** Commit-ordered time of the write, ISO 8601 in UTC. */
  readonly timestamp: string;
  /** Nobody publishes it: another program made the change, and the hub reads it from the log. */
  readonly unpublished?: boolean;
}

/**
 * JSON text of the `changes` object: the ids, and what was said of the task.
 * @param said JSON text of an object that is not empty, as the log keeps it
 */
export const changesText = (ids: Pick<TaskEvent, 'taskId' | 'jobId' | 'userId'>, said: string): string =>
  `{"task_id": ${ids.taskId}, "job_id": "${ids.jobId}", "user_id": ${JSON.stringify(ids.userId)}, ${said.slice(1)}`;

/** What every `changes` names. */
export interface ChangedTask {
  task_id: number;
  job_id: string;
  user_id: string;
}

/** A task was made. Its whole row, as reads show it. */
export interface TaskCreated extends TaskRow {}

/** The fields that the write set, under their own names; those that it did not set are absent. */
export interface TaskUpdated extends ChangedTask, Partial<Omit<TaskRow, keyof ChangedTask>> {}

/** The status was written. `task_status` is the new one, so that the changes can be merged into a row. */
export interface TaskStatusChanged extends ChangedTask {
  old_status: string;
  new_status: string;
  task_status: string;
  task_number?: number;
  task_submission_tx_hash?: string;
}

/** The fee was written. `task_opx_cost` is the new one, so that the changes can be merged into a row. */
export interface TaskFeeUpdated extends ChangedTask {
  /** null: the task had none. */
  old_fee: number | null;
  new_fee: number;
  task_opx_cost: number;
}

/** The task was deleted, or has moved to another job: there it is created. */
export interface TaskDeleted extends ChangedTask {
  old_status: string;
  old_fee: number | null;
}

/** The `changes` of each event. */
export interface EventChanges {
  TASK_CREATED: TaskCreated;
  TASK_UPDATED: TaskUpdated;
  TASK_STATUS_CHANGED: TaskStatusChanged;
  TASK_FEE_UPDATED: TaskFeeUpdated;
  TASK_DELETED: TaskDeleted;
}

/** The message that a client receives for an event of one type. */
export interface EnvelopeOf<Type extends EventType> {
  type: Type;
  /** Position in the stream of `data.user_id`, from 1. */
  seq: number;
  data: {
    task_id: number;
    job_id: string;
    user_id: string;
    changes: EventChanges[Type];
    /** Time of the write, ISO 8601 in UTC. */
    timestamp: string;
  };
  timestamp: string;
}

/** The message that a client receives for an event: `switch (event.type)` tells which `changes` it has. */
export type EventEnvelope = { [Type in EventType]: EnvelopeOf<Type> }[EventType];

/**
 * JSON text of an event's envelope, put together: live events and replayed ones are equal byte for byte. Only a user id may
 * have characters that JSON escapes, when it is older than their rule (rooms.ts) and another program has made it.
 */
export function envelopeText(event: TaskEvent): string {
  return (
    `{"type":"${event.type}","seq":${event.seq},"data":{"task_id":${event.taskId},"job_id":"${event.jobId}",` +
    `"user_id":${JSON.stringify(event.userId)},"changes":${event.changes},"timestamp":"${event.timestamp}"},` +
    `"timestamp":"${event.timestamp}"}`
  );
}
