import type { Router } from 'express';
import type { z } from 'zod';
import { TaskwireError } from '../protocol/errors.js';
import { mayAccess, seesAll } from '../protocol/tasks.js';
import type { JobRepository } from '../repository/job-repository.js';
import { jobInput, parseInput, userIdInput } from '../repository/task-input.js';
import type { Endpoint } from './endpoint.js';
import { objectOf } from './input.js';
import { resource } from './resource.js';

const ownJobInput = jobInput.extend({ user_id: userIdInput.optional() });

/** Jobs. A user's key makes jobs of its owner; other keys say whose the job is. */
export function jobRoutes(router: Router, endpoint: Endpoint, jobs: Pick<JobRepository, 'create'>): void {
  resource(router, '/api/jobs', {
    post: endpoint(async ({ identity, body }) => {
      const input: z.output<typeof ownJobInput> = parseInput(
        seesAll(identity) ? jobInput : ownJobInput,
        objectOf(body),
      );
      const user_id = input.user_id ?? identity.owner;
      if (!mayAccess(identity, user_id)) {
        throw new TaskwireError('ACCESS_DENIED');
      }
      return { status: 201, body: await jobs.create({ job_id: input.job_id, user_id }) };
    }),
  });
}
