import { closeSync, constants, openSync } from 'node:fs';
import { join } from 'node:path';

/** Systems keep paths of sockets in about 104 bytes. */
const MAX_SOCKET_PATH = 103;

/** Whether a socket of this name can be named by its path in a folder. */
export const socketFits = (folder: string, name: string): boolean =>
  Buffer.byteLength(join(folder, name)) <= MAX_SOCKET_PATH;

export interface SocketFolder {
  /** A path of the folder, for this process, that is short enough for its sockets. */
  readonly path: string;
  close(): void;
}

/** @returns the folder under a path that is short enough for a socket of this name; undefined where the system offers none */
export function openSocketFolder(folder: string, name: string): SocketFolder | undefined {
  if (socketFits(folder, name)) {
    return { path: folder, close() {} };
  }
  if (process.platform !== 'linux') {
    return undefined;
  }
  const file = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  return { path: `/proc/self/fd/${file}`, close: () => closeSync(file) };
}
