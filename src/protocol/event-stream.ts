import { errorEntry, type TaskwireError } from './errors.js';
import { EVENT_TYPES, type EventType } from './events.js';
import { errorText, type Position } from './messages.js';

/** How a stream of messages is written into an HTTP answer. */
export type StreamFormat = 'sse' | 'ndjson';

export const STREAM_CONTENT_TYPES: Readonly<Record<StreamFormat, string>> = {
  sse: 'text/event-stream; charset=utf-8',
  ndjson: 'application/x-ndjson; charset=utf-8',
};

/** A stream that somebody asks for: one room, from a position or a snapshot on. */
export interface StreamRequest {
  readonly format: StreamFormat;
  /** Name of the room. */
  readonly room: string;
  readonly since?: number | undefined;
  readonly epoch?: string | undefined;
  /** Whether a snapshot is sent where there is no position to go on from (true). */
  readonly snapshot?: boolean | undefined;
  /** Only events of these types; absent: all. */
  readonly types?: readonly EventType[] | undefined;
  /** Events after which the stream ends; absent: none. */
  readonly limit?: number | undefined;
}

/** The `id` of an event of a stream, which a browser gives back as `Last-Event-ID`. */
export const eventIdOf = ({ seq, epoch }: Position): string => `${epoch}-${seq}`;

/** The position of a `Last-Event-ID`; undefined when it is none of ours. */
export function positionOfEventId(id: string): Position | undefined {
  const match = /^(.{1,64})-(\d{1,16})$/.exec(id);
  const seq = Number(match?.[2]);
  return match !== null && Number.isSafeInteger(seq) ? { epoch: match[1]!, seq } : undefined;
}

const types: ReadonlySet<string> = new Set(EVENT_TYPES);

/** Whether a message is an event, rather than something about the stream. */
export const isEventType = (type: string): type is EventType => types.has(type);

/** How long a browser waits before it comes back, in milliseconds; up to twice as long, so that not all come together. */
const RETRY_MS = 1_000;

/** The line that says when a browser comes back. @param ms at least, in milliseconds */
export const retryLine = (ms = RETRY_MS): string => `retry: ${Math.round(ms * (1 + Math.random()))}\n`;

/** The last message of a stream: why it ends, and for a browser when to come back. */
export function farewell(format: StreamFormat, error: TaskwireError): string {
  const text = errorText(error.body);
  if (format === 'ndjson') {
    return `${text}\n`;
  }
  const retry = errorEntry(error.code).retry === 'later' ? retryLine(error.options.retryAfterMs) : '';
  return `${retry}data: ${text}\n\n`;
}
