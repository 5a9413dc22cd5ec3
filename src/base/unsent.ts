import type { Writable } from 'node:stream';

/** The inner part of a TCP socket in Node.js. `writeQueueSize`: bytes of the present write that the system has not taken yet. */
interface SocketHandle {
  readonly writeQueueSize?: number;
}

/**
 * Bytes that are not sent yet. The number falls with every piece that is sent. `writableLength` alone falls only when a whole
 * write has been sent, so that a megabyte on a slow line would look like a client that does not read. (Node.js itself uses
 * the same number to decide whether a socket is idle.)
 */
export function unsentBytes(socket: Writable): number {
  const handle = (socket as Writable & { readonly _handle?: SocketHandle | null })._handle;
  return socket.writableLength + (handle?.writeQueueSize ?? 0);
}

/** Payload of a ping that asks whether everything before it has arrived. */
export const CONFIRM = 'c';
