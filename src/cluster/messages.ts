/** What a worker tells its primary about itself, beside what the broker and sticky say over the same channel. */
export interface WorkerReady {
  readonly type: 'worker:ready';
}

/** Asks a worker to send its connections away and to end. */
export interface WorkerDrain {
  readonly type: 'worker:drain';
}

/** Tells a worker of events that were committed and that nobody publishes. */
export interface DatabaseChanged {
  readonly type: 'database:changed';
  /** Whose; undefined: of whomever. */
  readonly users: readonly string[] | undefined;
}

/** Tells a worker whether it will be told of such events. */
export interface DatabaseListening {
  readonly type: 'database:listening';
  readonly listening: boolean;
}

/** Sessions that have begun and ended at a worker since it last said so, by their ids. */
export interface WorkerSessions {
  readonly type: 'worker:sessions';
  readonly opened: readonly string[];
  readonly closed: readonly string[];
}

/** Comes to a worker with a connection: what was read of it. */
export interface StickyConnection {
  readonly type: 'sticky:connection';
  readonly data: Uint8Array;
}

export const isMessage = <Message extends { readonly type: string }>(
  message: unknown,
  type: Message['type'],
): message is Message =>
  typeof message === 'object' && message !== null && (message as { type?: unknown }).type === type;
