import type { ErrorBody } from './errors.js';

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

/** What a client asks for one room. */
export interface SubscribeRequest {
  readonly room: string;
  readonly since?: number | undefined;
  readonly epoch?: string | undefined;
  /** Whether a snapshot is wanted; job rooms send one unless it is false, others only when it is true. */
  readonly snapshot?: boolean | undefined;
}

/** Messages from client to server over the plain wire; Socket.IO uses the type as the event and `data` as argument. */
export const CLIENT_MESSAGE_TYPES = ['SUBSCRIBE', 'UNSUBSCRIBE', 'PING'] as const;
export type ClientMessageType = (typeof CLIENT_MESSAGE_TYPES)[number];

/** Messages from server to client beside the four events. */
export type ControlType =
  | 'JOB_TASKS_SNAPSHOT'
  | 'TASK_SNAPSHOT'
  | 'USER_TASKS_SNAPSHOT'
  | 'SUCCESS'
  | 'ERROR'
  | 'PONG'
  | 'POSITION';

/** JSON text of a control message. `requestId` is echoed as the client sent it. */
export function controlText(
  type: ControlType,
  data: unknown,
  options: { requestId?: string | undefined; position?: Position } = {},
): string {
  return JSON.stringify({
    type,
    ...(options.position === undefined ? {} : { seq: options.position.seq, epoch: options.position.epoch }),
    data,
    timestamp: new Date().toISOString(),
    ...(options.requestId === undefined ? {} : { request_id: options.requestId }),
  });
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

/** JSON text of an ERROR message. */
export function errorText(body: ErrorBody, requestId?: string): string {
  return controlText('ERROR', body, { requestId });
}
