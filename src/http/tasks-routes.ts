import type { Router } from 'express';
import type { RoomAccess } from '../door/room-access.js';
import { TaskwireError } from '../protocol/errors.js';
import type { Room } from '../protocol/rooms.js';
import { type Identity, seesAll } from '../protocol/tasks.js';
import {
  attestationInput,
  createTaskInput,
  executionInput,
  feeInput,
  parseInput,
  statusInput,
} from '../repository/task-input.js';
import type { WriteOptions } from '../repository/task-repository.js';
import type { TaskWrite } from '../repository/write-runner.js';
import type { Answer, Endpoint } from './endpoint.js';
import { jobRoomOf, objectOf, pageOf, taskBodyOf, taskRoomOf } from './input.js';
import { resource } from './resource.js';
import { createTasks, moreItems, optionsOf, type TaskWritePorts, updateTasks } from './task-batches.js';
import { assertSees, pageAnswer } from './task-pages.js';

export interface TaskRoutePorts extends TaskWritePorts {
  readonly access: Pick<RoomAccess, 'resolve'>;
}

/** Routes that write and read tasks. A 2xx says that the write is committed. */
export function taskRoutes(router: Router, endpoint: Endpoint, ports: TaskRoutePorts): void {
  const { tasks, reader, access, queues } = ports;
  /** Makes a write to a room that the key may see. One that was made before is answered even if the room is gone since. */
  async function owned(
    identity: Identity,
    room: Room,
    key: string | undefined,
    write: (options: WriteOptions) => Promise<TaskWrite>,
  ): Promise<TaskWrite> {
    const options = optionsOf(identity, key);
    let owner: string;
    try {
      owner = (await access.resolve(identity, room)).userId;
    } catch (refusal) {
      if (key === undefined || !(refusal instanceof TaskwireError) || refusal.code === 'DATABASE_UNAVAILABLE') {
        throw refusal;
      }
      try {
        return await queues.writes.run(identity.owner, () => write({ ...options, onlyAgain: true }));
      } catch (error) {
        throw error instanceof TaskwireError && error.code === 'NOT_FOUND' ? refusal : error;
      }
    }
    return queues.writes.run(owner, () => write(options));
  }

  /** A write to the task that the path names, made when the key may see the task. */
  const update = (write: (taskId: number, body: unknown, options: WriteOptions) => Promise<TaskWrite>) =>
    endpoint(async ({ identity, params, body, idempotencyKey }) => {
      const room = taskRoomOf(params['id']);
      const input = taskBodyOf(body, room.id);
      return {
        body: await owned(identity, room, idempotencyKey, (options) => write(Number(room.id), input, options)),
      };
    });

  resource(router, '/api/tasks', {
    post: endpoint(async ({ identity, body, countMore, idempotencyKey }): Promise<Answer> => {
      if (Array.isArray(body)) {
        await countMore(moreItems(body));
        return createTasks(ports, identity, body, idempotencyKey);
      }
      const input = parseInput(createTaskInput, objectOf(body));
      const create = (options: WriteOptions) => tasks.createTaskData(input, options);
      return { status: 201, body: await owned(identity, jobRoomOf(input.job_id), idempotencyKey, create) };
    }),
    put: endpoint(async ({ identity, body, countMore, idempotencyKey }): Promise<Answer> => {
      if (!Array.isArray(body)) {
        throw new TaskwireError('INVALID_REQUEST', { message: 'The body must be a JSON array of updates' });
      }
      await countMore(moreItems(body));
      return updateTasks(ports, identity, body, idempotencyKey);
    }),
  });

  resource(router, '/api/tasks/job/:job_id', {
    get: endpoint(async ({ identity, params, query }) => {
      const room = jobRoomOf(params['job_id']);
      const page = pageOf(query);
      await access.resolve(identity, room);
      return pageAnswer(reader, identity, room, page);
    }),
  });

  resource(router, '/api/tasks/execution/:id', {
    put: update((taskId, body, options) =>
      tasks.updateTaskExecutionData(taskId, parseInput(executionInput, body), options),
    ),
  });

  resource(router, '/api/tasks/attestation/:id', {
    put: update((taskId, body, options) =>
      tasks.updateTaskAttestationData(taskId, parseInput(attestationInput, body), options),
    ),
  });

  resource(router, '/api/tasks/:id/fee', {
    put: update(async (taskId, body, options) => {
      const { fee } = parseInput(feeInput, body);
      return tasks.updateTaskFee(taskId, fee, options);
    }),
  });

  resource(router, '/api/tasks/:id/status', {
    put: update(async (taskId, body, options) => {
      const { task_number, task_status, task_submission_tx_hash } = parseInput(statusInput, body);
      return tasks.updateTaskNumberAndStatus(taskId, task_number, task_status, task_submission_tx_hash, options);
    }),
  });

  resource(router, '/api/tasks/:id', {
    get: endpoint(async ({ identity, params }) => {
      const room = taskRoomOf(params['id']);
      await access.resolve(identity, room);
      const found = await reader.getPositionedTask(Number(room.id));
      if (found === undefined) {
        throw new TaskwireError('NOT_FOUND');
      }
      assertSees(identity, room, found.userId);
      return { body: found.task, position: found };
    }),
    delete: endpoint(async ({ identity, params, idempotencyKey }) => {
      const room = taskRoomOf(params['id']);
      // A task is deleted by the backend that runs it, not by its owner.
      if (!seesAll(identity)) {
        throw new TaskwireError('ACCESS_DENIED');
      }
      const remove = (options: WriteOptions) => tasks.deleteTaskData(Number(room.id), options);
      return { body: await owned(identity, room, idempotencyKey, remove) };
    }),
  });
}
