import type { Router } from 'express';
import { z } from 'zod';
import type { RoomAccess } from '../door/room-access.js';
import { EVENT_TYPES, envelopeText } from '../protocol/events.js';
import type { Room } from '../protocol/rooms.js';
import type { EventHistory } from '../repository/event-history.js';
import { parseInput } from '../repository/task-input.js';
import type { Endpoint } from './endpoint.js';
import { digits, jobRoomOf, taskRoomOf, userRoomOf } from './input.js';
import { resource } from './resource.js';

export interface EventRoutePorts {
  readonly history: Pick<EventHistory, 'page'>;
  readonly access: Pick<RoomAccess, 'resolve'>;
}

/** Events of a page that names no limit, and most events of any. */
const PAGE = 100;
const MAX_PAGE = 1_000;
const MAX_EPOCH_LENGTH = 64;

const historyInput = z.object({
  since: digits(0, Number.MAX_SAFE_INTEGER).optional(),
  epoch: z.string().min(1).max(MAX_EPOCH_LENGTH).optional(),
  types: z.array(z.enum(EVENT_TYPES)).optional(),
  limit: digits(1, MAX_PAGE).default(PAGE),
});

/** What happened in a job, to a task, to the tasks of a user. */
export function eventRoutes(router: Router, endpoint: Endpoint, { history, access }: EventRoutePorts): void {
  const serve = (path: string, roomOf: (params: Readonly<Record<string, string>>) => Room): void =>
    resource(router, path, {
      get: endpoint(async ({ identity, params, query }) => {
        const room = roomOf(params);
        const input = historyOf(query);
        const userId = await access.resolve(identity, room);
        const { events, seq, epoch, recovered, more } = await history.page({ userId, room, ...input });
        const rest = JSON.stringify({ seq, epoch, recovered, next: more ? seq : null });
        const body = `{"events":[${events.map(envelopeText).join(',')}],${rest.slice(1)}`;
        return { body, position: { seq, epoch } };
      }),
    });

  serve('/api/jobs/:job_id/events', (params) => jobRoomOf(params['job_id']));
  serve('/api/tasks/:id/events', (params) => taskRoomOf(params['id']));
  serve('/api/users/:user_id/events', (params) => userRoomOf(params['user_id']));
}

/**
 * Which events are wanted.
 * @throws TaskwireError INVALID_REQUEST
 */
function historyOf(query: URLSearchParams): z.output<typeof historyInput> {
  const one = (name: string): string | undefined => query.get(name) ?? undefined;
  // `types=A,B` and `types=A&types=B` say the same.
  const types = query.has('types') ? query.getAll('types').flatMap((text) => text.split(',')) : undefined;
  return parseInput(historyInput, { since: one('since'), epoch: one('epoch'), types, limit: one('limit') });
}
