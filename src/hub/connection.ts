import type { ErrorCode } from '../protocol/errors.js';
import type { EventType } from '../protocol/events.js';
import type { ControlType } from '../protocol/messages.js';
import type { Identity } from '../protocol/tasks.js';

/**
 * A message on its way to any number of connections. `payload` is the envelope's JSON; each gateway keeps the frame that
 * it builds from it in its own field, so that it is built once however many receive it.
 */
export interface Outgoing {
  readonly type: EventType | ControlType;
  readonly payload: Buffer;
  /** Position of an event. */
  readonly seq?: number;
  readonly epoch?: string;
  plainFrame?: Buffer;
  socketioFrame?: Buffer;
  sseFrame?: Buffer;
  ndjsonFrame?: Buffer;
}

/**
 * The gateway's side of one connection, as the hub sees it: the port between hub and gateways.
 *
 * `deliver` must keep the order of its calls on the wire, also in relation to acknowledgements that the gateway sends
 * itself, must not throw, and must not block. When too much waits, the gateway calls the session's `fallBehind`. After
 * `close` or a disconnect it ignores further messages.
 */
export interface Connection {
  readonly id: string;
  /** Who it is; an AUTH message may bring other credentials. */
  identity: Identity;
  deliver(message: Outgoing): void;
  close(code: ErrorCode): void;
  /** Bytes that wait to be sent. A message counts until its last byte is sent. */
  readonly backlog: number;
  /** Bytes that are not sent yet, finer than `backlog`: it also falls in the middle of a message. Absent: use `backlog`. */
  readonly unsent?: number;
  /**
   * Asks the client whether it has got everything that was delivered.
   * @param done called when it has, and never when the connection ends before. Asked again only after that.
   */
  confirm?(done: () => void): void;
}
