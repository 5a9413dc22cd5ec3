import type { StreamMessage } from '../protocol/stream-message.js';
import type { ReplayPage } from '../repository/log.js';
import type { Outgoing } from './connection.js';

/** An event of a stream on its way to connections. */
export type HubEvent = StreamMessage &
  Outgoing & {
    /** The broker does not bring it. */
    readonly unpublished?: boolean | undefined;
  };

/** A page of the log as it is sent: whoever asks for the same at the same time shares its events and their frames. */
export type EventPage = Omit<ReplayPage, 'events'> & { readonly events: readonly HubEvent[] };

/** A snapshot as it is sent. */
export interface RoomSnapshot {
  /** Whose stream the room is in. */
  readonly userId: string;
  readonly seq: number;
  readonly epoch: string;
  readonly message: Outgoing;
  /** Whether the room has tasks with lower ids. */
  readonly truncated: boolean;
  /** The lowest task id in it; undefined when it is empty. */
  readonly oldest: number | undefined;
}
