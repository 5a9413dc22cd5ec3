import type { Writable } from 'node:stream';

/** The part of a TCP socket that Node.js keeps to itself: bytes that the system has not taken of what is being written. */
interface SocketHandle {
  readonly writeQueueSize?: number;
}

/**
 * A figure that falls whenever a socket sends something. `writableLength` alone falls only when a whole write has been
 * sent: a megabyte on a thin line would look like a client that does not read. (Node.js looks at the same number when it
 * decides that a socket is idle.)
 */
export function unsentBytes(socket: Writable): number {
  const handle = (socket as Writable & { readonly _handle?: SocketHandle | null })._handle;
  return socket.writableLength + (handle?.writeQueueSize ?? 0);
}

/** What a ping carries that asks whether everything before it has arrived. */
export const CONFIRM = 'c';
