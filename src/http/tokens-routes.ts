import type { Router } from 'express';
import { z } from 'zod';
import type { RoomAccess } from '../door/room-access.js';
import { MAX_TOKEN_ROOMS, MAX_TOKEN_SECONDS, type Tokens } from '../door/tokens.js';
import { TaskwireError } from '../protocol/errors.js';
import { parseRoom } from '../protocol/rooms.js';
import { mayAccess, seesAll } from '../protocol/tasks.js';
import { parseInput, userIdInput } from '../repository/task-input.js';
import type { Endpoint } from './endpoint.js';
import { objectOf } from './input.js';
import { resource } from './resource.js';

export interface TokenRoutePorts {
  readonly tokens: Pick<Tokens, 'create'>;
  readonly access: Pick<RoomAccess, 'resolve'>;
}

/** Default life of a token, in seconds: a quarter of an hour. */
const DEFAULT_SECONDS = 900;

export const tokenBody = z
  .strictObject({
    rooms: z.array(z.string()).min(1).max(MAX_TOKEN_ROOMS).optional(),
    user: userIdInput.optional(),
    expires_in: z.number().int().min(1).max(MAX_TOKEN_SECONDS).default(DEFAULT_SECONDS),
  })
  .refine(({ rooms, user }) => (rooms === undefined) !== (user === undefined), {
    message: 'wants rooms, such as ["job:123"], or user, for all of the rooms of one; not both',
  });

/** Tokens for browsers. A key makes them, and a token shows nothing that its key does not see. */
export function tokenRoutes(router: Router, endpoint: Endpoint, { tokens, access }: TokenRoutePorts): void {
  resource(router, '/api/tokens', {
    post: endpoint(async ({ identity, body }) => {
      const { rooms, user, expires_in } = parseInput(tokenBody, objectOf(body));
      const restrict = seesAll(identity) ? undefined : identity.owner;
      if (rooms === undefined) {
        if (!mayAccess(identity, user!)) {
          throw new TaskwireError('ACCESS_DENIED');
        }
        const { token, expiresAt } = await tokens.create(identity, { user: user!, expires_in }, restrict);
        return { status: 201, body: { token, user, expires_in, expires_at: expiresAt.toISOString() } };
      }
      const wanted = rooms.map(parseRoom);
      await Promise.all(wanted.map((room) => access.resolve(identity, room)));
      const { token, expiresAt } = await tokens.create(identity, { rooms, expires_in }, restrict);
      return { status: 201, body: { token, rooms, expires_in, expires_at: expiresAt.toISOString() } };
    }, 'tokens'),
  });
}
