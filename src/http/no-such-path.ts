import type { IncomingMessage } from 'node:http';
import { queryOf } from '../door/credentials.js';
import { TaskwireError } from '../protocol/errors.js';
import { meant, nearest } from '../protocol/nearest.js';
import { ENGINE_PATH, NAMESPACE } from '../protocol/paths.js';
import type { Route } from './resource.js';

const SOCKET_IO =
  `Socket.IO is served at ${ENGINE_PATH}: leave the option "path" out, ` +
  `and connect to the namespace, io("http://host:port${NAMESPACE}")`;

/** The error for an unknown path. It names the path that was probably meant. */
export function noSuchPath(request: IncomingMessage, routes: readonly Route[]): TaskwireError {
  if (queryOf(request).has('EIO')) {
    return new TaskwireError('NOT_FOUND', { message: `Not found: ${SOCKET_IO}` });
  }
  const path = (request.url ?? '').split('?', 1)[0]!;
  // Ids are names in the table: /api/task/1 is near to /api/tasks/:id.
  const named = path.replace(/\/\d+(?=\/|$)/g, '/:id');
  return new TaskwireError('NOT_FOUND', {
    message: `Nothing is served at this path${meant(nearest(named, new Set(routes.map(({ path }) => path))))}`,
  });
}
