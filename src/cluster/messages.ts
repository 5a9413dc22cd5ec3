/** What a worker tells its primary about itself, beside what the broker and sticky say over the same channel. */
export interface WorkerReady {
  readonly type: 'worker:ready';
}

/** Asks a worker to send its connections away and to end. */
export interface WorkerDrain {
  readonly type: 'worker:drain';
}

export const isMessage = <Message extends { readonly type: string }>(
  message: unknown,
  type: Message['type'],
): message is Message =>
  typeof message === 'object' && message !== null && (message as { type?: unknown }).type === type;
