import type { TaskEvent } from '../protocol/events.js';
import type { Position } from '../protocol/messages.js';
import type { RoomKind } from '../protocol/rooms.js';

/** Asks for events of one room with `seq > after`. */
export interface RoomCursor {
  readonly kind: RoomKind;
  readonly id: string;
  readonly after: number;
}

export interface ReplayQuery {
  readonly userId: string;
  /** Rooms of this one user's stream; an event of several of them is returned once. */
  readonly rooms: readonly RoomCursor[];
  /** Most events that are returned. */
  readonly limit: number;
}

/** The user whose stream a room is in. */
export interface RoomOwner {
  readonly userId: string;
  /** The head of that stream when the owner was looked up; undefined when it is not known, or there is no stream. */
  readonly head?: Position | undefined;
}

/** By what an answer of a replica is compared with the primary. */
export interface Witness {
  /** Whether the server was in recovery: only then it has no history of its own. */
  readonly standby: boolean;
  /** When it was started, to the microsecond. */
  readonly started: string;
  /** When the event at the head of the stream was logged, to the microsecond; null when it is no longer in the log. */
  readonly event: string | null;
}

/** All fields are of one snapshot of the database. */
export interface ReplayPage extends ReplayState {
  /** In `seq` order, without copies. */
  readonly events: readonly TaskEvent[];
  /** Whether nothing of the rooms up to `head` is missing; otherwise ask again after the last event. */
  readonly complete: boolean;
  /** Only when it was asked for. */
  readonly witness?: Witness | undefined;
}

export interface ReplayState extends Position {
  /** `seq` is the stream's head; events up to `floor` are no longer in the log. */
  readonly floor: number;
}

/** Tasks of a room as they are at `seq` of their owner's stream: every event up to it is in them, none after it. */
export interface Snapshot extends Position {
  readonly userId: string;
  /** JSON text of the list of `TaskRow`, in order of task id; only the newest tasks when `truncated`. */
  readonly tasks: string;
  readonly truncated: boolean;
  /** The lowest task id in it; undefined when it is empty. */
  readonly oldest: number | undefined;
  /** Only when it was asked for. */
  readonly witness?: Witness | undefined;
}
