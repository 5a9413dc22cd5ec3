/** The four events of the specification. */
export const EVENT_TYPES = ['TASK_CREATED', 'TASK_UPDATED', 'TASK_STATUS_CHANGED', 'TASK_FEE_UPDATED'] as const;
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
}

/**
 * JSON text of the `changes` object: the ids, and what was said of the task.
 * @param said JSON text of an object that is not empty, as the log keeps it
 */
export const changesText = (ids: Pick<TaskEvent, 'taskId' | 'jobId' | 'userId'>, said: string): string =>
  `{"task_id": ${ids.taskId}, "job_id": "${ids.jobId}", "user_id": "${ids.userId}", ${said.slice(1)}`;

/** The message that a client receives for an event. */
export interface EventEnvelope {
  type: EventType;
  seq: number;
  data: {
    task_id: number;
    job_id: string;
    user_id: string;
    changes: Record<string, unknown>;
    timestamp: string;
  };
  timestamp: string;
}

/**
 * JSON text of an event's envelope. Ids and timestamps hold no character that JSON escapes (rooms.ts), so the text
 * is put together; live events and replayed ones are equal byte for byte.
 */
export function envelopeText(event: TaskEvent): string {
  return (
    `{"type":"${event.type}","seq":${event.seq},"data":{"task_id":${event.taskId},"job_id":"${event.jobId}",` +
    `"user_id":"${event.userId}","changes":${event.changes},"timestamp":"${event.timestamp}"},` +
    `"timestamp":"${event.timestamp}"}`
  );
}
