import type { ErrorBody } from './errors.js';
import type { EventEnvelope } from './events.js';
import type { TaskRow } from './tasks.js';

/** Where a client stands in a room. */
export interface Position {
  readonly seq: number;
  readonly epoch: string;
}

/** The acknowledgement of a SUBSCRIBE, one per room. */
export interface SubscribeResult extends Position {
  readonly room: string;
  /** Whether everything after `since` was replayed; false when the client got a snapshot, or starts here, instead. */
  readonly recovered: boolean;
  /** Events sent between `since` (or the snapshot) and `seq`. */
  readonly replayed: number;
}

/** How much of a snapshot is wanted, and in which pieces. */
export interface SnapshotRequest {
  /** All of it, in further messages when it does not fit into one; `false`: only the newest tasks. Default: true. */
  readonly parts?: boolean;
  /** At most so many tasks in one message; an integer from 1. */
  readonly limit?: number;
  /** Only tasks with lower ids, in parts: the rest of a snapshot that was truncated. */
  readonly before?: number;
}

/** What a client asks for one room. */
export interface SubscribeRequest {
  readonly room: string;
  /** Position up to which the client has the room; what came after it is sent. Absent: a snapshot instead. */
  readonly since?: number | undefined;
  /** The epoch that came with `since`. */
  readonly epoch?: string | undefined;
  /** Whether a snapshot is wanted; job rooms send one unless it is false, others only when it is not absent or false. */
  readonly snapshot?: boolean | SnapshotRequest | undefined;
}

/** Messages from client to server over the plain wire; Socket.IO uses the type as the event and `data` as argument. */
export const CLIENT_MESSAGE_TYPES = ['SUBSCRIBE', 'UNSUBSCRIBE', 'PING', 'AUTH'] as const;
export type ClientMessageType = (typeof CLIENT_MESSAGE_TYPES)[number];

/** Messages from server to client beside the four events. */
export const CONTROL_TYPES = [
  'JOB_TASKS_SNAPSHOT',
  'TASK_SNAPSHOT',
  'USER_TASKS_SNAPSHOT',
  'SNAPSHOT_PART',
  'SUCCESS',
  'ERROR',
  'PONG',
  'POSITION',
] as const;
export type ControlType = (typeof CONTROL_TYPES)[number];

/** What a client may give a request so that it finds the answer to it: a JSON value that is no object and no list. */
export type RequestId = string | number | boolean;

/** The answer to a room that was refused, among the rooms of one request. */
export interface RoomRefusal {
  readonly room: string;
  readonly error: ErrorBody;
}

/** `data` of the answer to a SUBSCRIBE of several rooms, in the order of the request. */
export interface SubscribeResults {
  readonly rooms: ReadonlyArray<SubscribeResult | RoomRefusal>;
  /** How many of them were refused; absent when none was. */
  readonly failed?: number;
}

/** `data` of the answer to an UNSUBSCRIBE: the room, or several, by name unless they were refused. */
export type UnsubscribeResult =
  | { readonly room: string }
  | { readonly rooms: ReadonlyArray<string | RoomRefusal>; readonly failed?: number };

/** `data` of the answer to an AUTH. */
export interface AuthResult {
  /** Whose rooms the credentials show, or who has them. */
  readonly user: string;
  /** When a token ends, ISO 8601 in UTC; null for a key. */
  readonly expires_at: string | null;
}

/** Where a connection stands in each of its rooms. */
export interface Positions {
  readonly positions: ReadonlyArray<{ readonly room: string } & Position>;
}

/** The tasks of a room, true up to `seq`; what comes after it follows as events. */
export interface SnapshotMessage extends Position {
  readonly type: 'JOB_TASKS_SNAPSHOT' | 'TASK_SNAPSHOT' | 'USER_TASKS_SNAPSHOT';
  readonly data: {
    readonly user_id: string;
    /** In the snapshot of a job. */
    readonly job_id?: string;
    /** In the snapshot of a task. */
    readonly task_id?: number;
    readonly tasks: readonly TaskRow[];
    /** There are more tasks than these, the newest ones. */
    readonly truncated?: true;
    /** When it is truncated: the lowest task id in it. The rest has lower ones. */
    readonly before?: number;
    /** The rest follows, as SNAPSHOT_PART. */
    readonly parts?: true;
  };
  readonly timestamp: string;
}

/** More tasks of a room whose snapshot did not fit into one message, each true up to `seq`. Sent where the client asked for parts. */
export interface SnapshotPartMessage extends Position {
  readonly type: 'SNAPSHOT_PART';
  readonly data: {
    readonly room: string;
    readonly user_id: string;
    readonly job_id?: string;
    readonly tasks: readonly TaskRow[];
    /** The lowest task id in it; further parts have lower ones. Absent in the last part. */
    readonly before?: number;
    /** Further parts follow. */
    readonly parts?: true;
    /** It is the last part. */
    readonly complete?: true;
  };
  readonly timestamp: string;
}

/** A good answer over the plain wire. Socket.IO acknowledges with `data.data` alone. */
export interface SuccessMessage {
  readonly type: 'SUCCESS';
  readonly data: {
    readonly message: string;
    readonly data: SubscribeResult | SubscribeResults | UnsubscribeResult | AuthResult;
  };
  readonly timestamp: string;
  readonly request_id?: RequestId;
}

export interface ErrorMessage {
  readonly type: 'ERROR';
  readonly data: ErrorBody;
  readonly timestamp: string;
  readonly request_id?: RequestId;
}

/** The answer to a PING, and, as POSITION, what a connection is told unasked now and then. */
export interface PositionsMessage {
  readonly type: 'PONG' | 'POSITION';
  readonly data: Positions;
  readonly timestamp: string;
  readonly request_id?: RequestId;
}

/** Whatever the server sends: `switch (message.type)` tells which. */
export type ServerMessage =
  | EventEnvelope
  | SnapshotMessage
  | SnapshotPartMessage
  | SuccessMessage
  | ErrorMessage
  | PositionsMessage;

/** JSON text of a control message. `requestId` is JSON text, echoed as the client sent it. */
export function controlText(
  type: ControlType,
  data: unknown,
  options: { requestId?: string | undefined; position?: Position } = {},
): string {
  const text = JSON.stringify({
    type,
    ...(options.position === undefined ? {} : { seq: options.position.seq, epoch: options.position.epoch }),
    data,
    timestamp: new Date().toISOString(),
  });
  return options.requestId === undefined ? text : `${text.slice(0, -1)},"request_id":${options.requestId}}`;
}

/** JSON text of a snapshot; `tasks` is JSON text already and is carried as it is. */
export function snapshotText(
  type: ControlType,
  parts: { readonly ids: object; readonly tasks: string; readonly position: Position },
): string {
  const { seq, epoch } = parts.position;
  const ids = JSON.stringify(parts.ids).slice(1, -1);
  const now = new Date().toISOString();
  return `{"type":"${type}","seq":${seq},"epoch":"${epoch}","data":{${ids},"tasks":${parts.tasks}},"timestamp":"${now}"}`;
}

/** JSON text of an ERROR message; `requestId` as in `controlText`. */
export function errorText(body: ErrorBody, requestId?: string): string {
  return controlText('ERROR', body, { requestId });
}
