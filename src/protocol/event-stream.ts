import { EVENT_TYPES, type EventType } from './events.js';
import type { Position } from './messages.js';

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
