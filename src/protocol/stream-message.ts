import { type EventType, envelopeText, type TaskEvent } from './events.js';

/**
 * An event as it travels: one header line that routing needs, then the envelope's bytes, which nobody parses on the way.
 *
 *     {seq} {epoch} {job_id} {task_id} {type}\n{envelope}
 */
export interface StreamMessage {
  readonly seq: number;
  readonly epoch: string;
  readonly jobId: string;
  readonly taskId: string;
  readonly type: EventType;
  /** The whole message. */
  readonly bytes: Buffer;
  /** UTF-8 JSON of the envelope: the end of `bytes`. */
  readonly payload: Buffer;
}

export function encodeStreamMessage(event: TaskEvent): Buffer {
  return Buffer.from(
    `${event.seq} ${event.epoch} ${event.jobId} ${event.taskId} ${event.type}\n${envelopeText(event)}`,
  );
}

/** @returns undefined when the bytes are not a stream message. */
export function decodeStreamMessage(bytes: Buffer): StreamMessage | undefined {
  const end = bytes.indexOf(10);
  if (end < 0 || end > 512) {
    return undefined;
  }
  const fields = bytes.toString('latin1', 0, end).split(' ');
  const seq = Number(fields[0]);
  if (fields.length !== 5 || !Number.isSafeInteger(seq) || seq < 1) {
    return undefined;
  }
  const [, epoch, jobId, taskId, type] = fields as [string, string, string, string, EventType];
  return { seq, epoch, jobId, taskId, type, bytes, payload: bytes.subarray(end + 1) };
}

/** The same message made from a row of the log. */
export const streamMessageOf = (event: TaskEvent): StreamMessage => decodeStreamMessage(encodeStreamMessage(event))!;
