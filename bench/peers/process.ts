import cluster from 'node:cluster';

/** Rooms of a SUBSCRIBE: `room`, or `rooms` as names or as objects. */
export function roomsOf(data: unknown): string[] {
  const { room, rooms } = (data ?? {}) as { room?: string; rooms?: Array<string | { room: string }> };
  return (rooms ?? (room === undefined ? [] : [room])).map((item) => (typeof item === 'string' ? item : item.room));
}

/** Tells the primary that this worker can be used. */
export function workerReady(): void {
  process.send?.('ready');
}

/** Forks WORKERS workers, opens the listener, and says `ready` on standard output when all of them are. */
export function runPrimary(listen?: (listening: () => void) => void): void {
  let waiting = Number(process.env['WORKERS'] ?? 2) + (listen === undefined ? 0 : 1);
  const arrived = (): void => {
    waiting -= 1;
    if (waiting === 0) {
      console.log('ready');
    }
  };
  cluster.on('message', (_worker, message) => {
    if (message === 'ready') {
      arrived();
    }
  });
  for (let worker = Number(process.env['WORKERS'] ?? 2); worker > 0; worker -= 1) {
    cluster.fork();
  }
  listen?.(arrived);
}
