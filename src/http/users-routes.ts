import type { Router } from 'express';
import type { RoomAccess } from '../door/room-access.js';
import type { TaskReader } from '../repository/task-reader.js';
import type { Endpoint } from './endpoint.js';
import { pageOf, userRoomOf } from './input.js';
import { resource } from './resource.js';
import { pageAnswer } from './task-pages.js';

export interface UserRoutePorts {
  readonly reader: Pick<TaskReader, 'getTaskPage'>;
  readonly access: Pick<RoomAccess, 'resolve'>;
}

/** What belongs to a user. */
export function userRoutes(router: Router, endpoint: Endpoint, { reader, access }: UserRoutePorts): void {
  resource(router, '/api/users/:user_id/tasks', {
    get: endpoint(async ({ identity, params, query }) => {
      const room = userRoomOf(params['user_id']);
      const page = pageOf(query);
      await access.resolve(identity, room);
      return pageAnswer(reader, identity, room, page);
    }),
  });
}
