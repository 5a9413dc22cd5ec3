/**
 * The messages of taskwire, as a client sees them. Types and tables only: nothing here opens a connection.
 *
 * Units: `seq` counts events of one user from 1; timestamps are ISO 8601 in UTC; fields that end in `_ms` are milliseconds.
 */

import { ERRORS, type ErrorCode } from './error-table.js';

export { ERRORS, type ErrorCode, LATER } from './error-table.js';

/** Where one stands in a user's stream. Positions of different epochs cannot be compared. */
export interface Position {
  /** Number of the last event that is known: gapless, in commit order, from 1; 0 before the first. */
  readonly seq: number;
  /** A word that changes when a database is restored from a backup. */
  readonly epoch: string;
}

/** A task as REST, snapshots and events show it. */
export interface TaskRow {
  readonly task_id: number;
  /** Unsigned integer of up to 78 digits. */
  readonly job_id: string;
  readonly user_id: string;
  readonly task_number: number | null;
  readonly task_definition_id: number;
  readonly is_imua: boolean;
  readonly task_status: string;
  readonly task_error: string | null;
  readonly task_opx_cost: number | null;
  readonly execution_timestamp: string | null;
  readonly execution_tx_hash: string | null;
  readonly proof_of_task: string | null;
  readonly task_performer_id: number | null;
  readonly task_attester_ids: readonly number[] | null;
  readonly tp_signature: string | null;
  readonly ta_signature: string | null;
  readonly task_submission_tx_hash: string | null;
  readonly is_successful: boolean | null;
  /** The same as `is_successful`. */
  readonly is_accepted: boolean | null;
  readonly tx_url: string | null;
  readonly converted_arguments: unknown;
  readonly created_at: string;
}

/** The ids that every event carries, in `data` and again in `data.changes`. */
export interface TaskIds {
  readonly task_id: number;
  readonly job_id: string;
  readonly user_id: string;
}

interface Envelope<Type extends string, Changes> {
  readonly type: Type;
  readonly seq: number;
  readonly data: TaskIds & { readonly changes: TaskIds & Changes; readonly timestamp: string };
  readonly timestamp: string;
}

/** A task was made. A server of today says the whole row. */
export type TaskCreated = Envelope<
  'TASK_CREATED',
  Pick<TaskRow, 'task_definition_id' | 'is_imua' | 'created_at'> & Partial<TaskRow>
>;
/** Execution or attestation data were written: the fields that were set. */
export type TaskUpdated = Envelope<'TASK_UPDATED', Partial<TaskRow>>;
/** The status was written. */
export type TaskStatusChanged = Envelope<
  'TASK_STATUS_CHANGED',
  Partial<TaskRow> & {
    readonly old_status: string | null;
    readonly new_status: string;
    /** The same as `new_status`. */
    readonly task_status: string;
  }
>;
/** The fee was written. */
export type TaskFeeUpdated = Envelope<
  'TASK_FEE_UPDATED',
  Partial<TaskRow> & {
    readonly old_fee: number | null;
    readonly new_fee: number | null;
    /** The same as `new_fee`. */
    readonly task_opx_cost: number | null;
  }
>;
/** The task is gone. */
export type TaskDeleted = Envelope<'TASK_DELETED', Partial<TaskRow>>;

/** A committed change of one task. */
export type TaskEvent = TaskCreated | TaskUpdated | TaskStatusChanged | TaskFeeUpdated | TaskDeleted;

/** The state of a room at a position: `seq` and `epoch` say up to which event it is true. */
export interface SnapshotMessage {
  readonly type: 'JOB_TASKS_SNAPSHOT' | 'TASK_SNAPSHOT' | 'USER_TASKS_SNAPSHOT';
  readonly seq: number;
  readonly epoch: string;
  readonly data: {
    readonly job_id?: string;
    readonly task_id?: number;
    readonly user_id: string;
    readonly tasks: readonly TaskRow[];
    /** There are more tasks than these, which are the newest. */
    readonly truncated?: boolean;
    /** The lowest task id in it, where there are more tasks. */
    readonly before?: number;
    /** The others follow, as `SNAPSHOT_PART`. */
    readonly parts?: boolean;
  };
  readonly timestamp: string;
}

/** More tasks of a room whose snapshot did not fit into one message: from newer to older ones, each part true at its own `seq`. */
export interface SnapshotPart {
  readonly type: 'SNAPSHOT_PART';
  readonly seq: number;
  readonly epoch: string;
  readonly data: {
    readonly room: string;
    readonly job_id?: string;
    readonly task_id?: number;
    readonly user_id: string;
    readonly tasks: readonly TaskRow[];
    /** The lowest task id in it; absent in the last part. */
    readonly before?: number;
    /** Further parts follow. */
    readonly parts?: boolean;
    /** It is the last part. */
    readonly complete?: boolean;
  };
  readonly timestamp: string;
}

/** What a refusal says. */
export interface ErrorBody {
  readonly code: string;
  readonly message: string;
  readonly details?: unknown;
  /** How long to wait at least before the next try, in milliseconds. */
  readonly retry_after_ms?: number;
}

/** What is asked of one room. */
export interface SubscribeRequest {
  readonly room: string;
  /** Position up to which the room is known. */
  readonly since?: number;
  readonly epoch?: string;
  /** `parts`: all tasks of the room, in several messages where one is too small. */
  readonly snapshot?: boolean | { readonly parts?: boolean; readonly limit?: number; readonly before?: number };
}

/** The answer for one room that was joined. */
export interface SubscribeResult extends Position {
  readonly room: string;
  /** Everything after `since` was sent. `false`: a snapshot was sent instead, or `since` was not given. */
  readonly recovered: boolean;
  /** Events sent between `since`, or the snapshot, and `seq`. */
  readonly replayed: number;
}

/** The answer for one room of several. */
export type SubscribeOutcome = SubscribeResult | { readonly room: string; readonly error: ErrorBody };

/** Where the connection stands in each of its rooms. */
export interface PositionsData {
  readonly positions: ReadonlyArray<Position & { readonly room: string }>;
}

interface Control<Type extends string, Data> {
  readonly type: Type;
  readonly data: Data;
  readonly timestamp: string;
  readonly request_id?: string;
}

export type SuccessMessage = Control<'SUCCESS', { readonly message: string; readonly data?: unknown }>;
export type ErrorMessage = Control<'ERROR', ErrorBody>;
export type PongMessage = Control<'PONG', PositionsData>;
export type PositionMessage = Control<'POSITION', PositionsData>;

/** Whatever a server sends. */
export type ServerMessage =
  | TaskEvent
  | SnapshotMessage
  | SnapshotPart
  | SuccessMessage
  | ErrorMessage
  | PongMessage
  | PositionMessage;

/** Whatever a client sends over a plain WebSocket. */
export type ClientMessage =
  | {
      readonly type: 'SUBSCRIBE';
      readonly data: SubscribeRequest | { readonly rooms: ReadonlyArray<string | SubscribeRequest> };
      readonly request_id?: string;
    }
  | {
      readonly type: 'UNSUBSCRIBE';
      readonly data: { readonly room: string } | { readonly rooms: readonly string[] };
      readonly request_id?: string;
    }
  | { readonly type: 'PING'; readonly data?: object; readonly request_id?: string }
  | { readonly type: 'AUTH'; readonly data: { readonly token: string }; readonly request_id?: string };

/** Whether a message is an event of a task, also one of a type that this version does not know. */
export const isTaskEvent = (message: { readonly type: string; readonly data?: unknown }): message is TaskEvent =>
  typeof (message.data as { changes?: unknown } | undefined)?.changes === 'object';

/** Whether a message is a snapshot of a room, or the beginning of one. */
export const isSnapshot = (message: { readonly type: string }): message is SnapshotMessage =>
  /_SNAPSHOT$/.test(message.type);

/** The rooms that an event belongs to: of its job, its task and its user. */
export const roomsOf = ({ data }: { readonly data: Partial<TaskIds> }): [string, string, string] => [
  `job:${data.job_id}`,
  `task:${data.task_id}`,
  `user:${data.user_id}`,
];

/** Whether a WebSocket that was closed with this code should come back. */
export const comesBack = (closeCode: number): boolean => closeCode !== 1009 && !(closeCode >= 4500 && closeCode < 5000);

/** The entry of a code in the error table; undefined for a code of a newer server. */
export const errorEntry = (code: string) => (Object.hasOwn(ERRORS, code) ? ERRORS[code as ErrorCode] : undefined);
