import type { Router } from 'express';
import { z } from 'zod';
import type { RoomAccess } from '../door/room-access.js';
import { TaskwireError } from '../protocol/errors.js';
import { mayAccess, seesAll } from '../protocol/tasks.js';
import type { JobRepository } from '../repository/job-repository.js';
import { jobInput, parseInput, userIdInput } from '../repository/task-input.js';
import type { Endpoint } from './endpoint.js';
import { jobPageOf, jobRoomOf, objectOf, userRoomOf } from './input.js';
import type { RestQueues } from './queues.js';
import { resource } from './resource.js';
import { assertSees } from './task-pages.js';

export const ownJobInput = z.strictObject({ user_id: userIdInput.optional() });

export interface JobRoutePorts {
  readonly jobs: Pick<JobRepository, 'create' | 'createWithNewId'>;
  readonly jobReader: Pick<JobRepository, 'getPositionedJob' | 'list' | 'listOfUser'>;
  readonly queues: Pick<RestQueues, 'writes'>;
  readonly access: Pick<RoomAccess, 'resolve'>;
}

/** Jobs. A user's key makes jobs of its owner, whose ids are made here, and sees those; other keys say which and whose. */
export function jobRoutes(router: Router, endpoint: Endpoint, ports: JobRoutePorts): void {
  const { jobs, jobReader, access, queues } = ports;
  resource(router, '/api/jobs', {
    get: endpoint(async ({ identity, query }) => {
      const { page, user = seesAll(identity) ? undefined : identity.owner } = jobPageOf(query);
      if (user === undefined) {
        // The jobs are of many streams, so there is no single position.
        return { body: await jobReader.list(page) };
      }
      const room = userRoomOf(user);
      await access.resolve(identity, room);
      const found = await jobReader.listOfUser(room.id, page);
      if (found === undefined) {
        throw new TaskwireError('NOT_FOUND');
      }
      const { position, ...list } = found;
      return { body: { user_id: room.id, ...list, ...position }, position };
    }),
    post: endpoint(async ({ identity, body, idempotencyKey }) => {
      const { owner } = identity;
      if (seesAll(identity)) {
        const job = parseInput(jobInput, objectOf(body));
        const create = () => jobs.create(job, { again: idempotencyKey !== undefined });
        return { status: 201, body: await queues.writes.run(job.user_id, create) };
      }
      // A user cannot choose the id: it could be one that a backend is about to give to somebody else's job.
      const { user_id = owner } = parseInput(ownJobInput, objectOf(body ?? {}));
      if (!mayAccess(identity, user_id)) {
        throw new TaskwireError('ACCESS_DENIED');
      }
      const key = idempotencyKey === undefined ? undefined : JSON.stringify([owner, idempotencyKey]);
      return { status: 201, body: await queues.writes.run(user_id, () => jobs.createWithNewId(user_id, key)) };
    }),
  });

  resource(router, '/api/jobs/:job_id', {
    get: endpoint(async ({ identity, params }) => {
      const room = jobRoomOf(params['job_id']);
      await access.resolve(identity, room);
      const found = await jobReader.getPositionedJob(room.id);
      if (found === undefined) {
        throw new TaskwireError('NOT_FOUND');
      }
      assertSees(identity, room, found.job.user_id);
      return { body: found.job, position: found.position };
    }),
  });
}
