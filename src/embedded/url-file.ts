import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { openSocketFolder } from './socket-folder.js';

/** The port that clients name, though nobody listens on it: it is a part of the socket's name. */
export const SOCKET_PORT = 5432;
/** The name that Postgres clients look for in a socket's folder. */
export const SOCKET_NAME = `.s.PGSQL.${SOCKET_PORT}`;

/** The file in which a running service says where its embedded database is, for commands of the same user. */
export const embeddedUrlFile = (dir: string): string => join(dir, 'database-url');

/** Where the database listens when the folder's path is short enough. */
export const socketFolderIn = (dir: string): string => join(dir, 'run');

/**
 * The database of a service that runs on this folder, here or in a container: there the folder has another path.
 * @returns undefined when it cannot be reached from here
 */
export function findEmbeddedUrl(dir: string): string | undefined {
  const file = embeddedUrlFile(dir);
  if (!existsSync(file)) {
    return undefined;
  }
  const url = new URL(readFileSync(file, 'utf8'));
  const named = url.searchParams.get('host');
  if (named === null) {
    return url.href;
  }
  const shared = socketFolderIn(dir);
  const folder = existsSync(join(shared, SOCKET_NAME)) ? openSocketFolder(shared, SOCKET_NAME)?.path : named;
  if (folder === undefined || !existsSync(join(folder, SOCKET_NAME))) {
    return undefined;
  }
  url.searchParams.set('host', folder);
  return url.href;
}
