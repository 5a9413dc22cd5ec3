import type { ErrorBody } from './protocol.js';

/** What a client shows the server. */
export interface Credential {
  /** A token for pages, read-only and short-lived. */
  readonly token?: string | undefined;
  /** An API key: for programs, not for pages. */
  readonly apiKey?: string | undefined;
}

/** Why a link ended or did not open. */
export interface LinkEnd {
  /** Whether to come back by itself. */
  readonly later: boolean;
  /** A code of the error table, or a word of the client: `CONNECTION_LOST`, `NO_ANSWER`, `TOKEN_UNAVAILABLE`. */
  readonly code: string;
  readonly message: string;
  /** How long to wait at least, in milliseconds. */
  readonly retryAfterMs?: number | undefined;
}

/** A message of the server, as it came. */
export interface Incoming {
  readonly type: string;
  readonly seq?: number;
  readonly epoch?: string;
  readonly data?: unknown;
  /** The room that it was sent for, where each room has a connection of its own; otherwise it is for all rooms that it belongs to. */
  readonly room?: string;
}

/** The answer to a message: what the server said, or a refusal. */
export type Answer = { readonly data: unknown } | { readonly error: ErrorBody };

/** What a link tells. Nothing is told after `ended`. */
export interface LinkEvents {
  /** The server takes messages. */
  opened(): void;
  /** A message that answers nothing. */
  message(message: Incoming): void;
  /** Called once, unless `close` was called before. */
  ended(end: LinkEnd): void;
}

/** One connection. Messages arrive in the order in which the server sent them, answers among them. */
export interface Link {
  /** Sends a message; `answered` is called at most once. */
  send(type: string, data: unknown, answered: (answer: Answer) => void): void;
  /** Ends it; nothing is told any more. */
  close(): void;
}

/**
 * Opens a link. It throws where the address or the surroundings are wrong for good.
 * @param target `url` is the address of the server as given to `createTaskwire`
 */
export interface Transport {
  (target: { readonly url: string; readonly credential: Credential }, events: LinkEvents): Link;
  /** Where links are shared with other tabs: how to have one alone, for what begins before now. */
  readonly alone?: Transport;
}
