import { z } from 'zod';
import { TaskwireError } from '../protocol/errors.js';
import { isJobId, isTaskId, jobRoom, parseRoom, type Room, taskRoom } from '../protocol/rooms.js';
import { parseInput } from '../repository/task-input.js';

/** INVALID_REQUEST that names one field. */
export function invalidField(field: string, message: string): TaskwireError {
  return new TaskwireError('INVALID_REQUEST', { details: [{ field, message }] });
}

/**
 * The room of the task that a path names.
 * @throws TaskwireError INVALID_REQUEST
 */
export function taskRoomOf(id: string | undefined): Room {
  if (id === undefined || !isTaskId(id)) {
    throw invalidField('id', 'wants a task id: a positive integer');
  }
  return parseRoom(taskRoom(id));
}

/**
 * The room of the job that a path names.
 * @throws TaskwireError INVALID_REQUEST
 */
export function jobRoomOf(id: string | undefined): Room {
  if (id === undefined || !isJobId(id)) {
    throw invalidField('job_id', 'wants a job id: an unsigned integer of up to 78 digits');
  }
  return parseRoom(jobRoom(id));
}

/**
 * A body that is an object.
 * @throws TaskwireError INVALID_REQUEST
 */
export function objectOf(body: unknown): Readonly<Record<string, unknown>> {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw new TaskwireError('INVALID_REQUEST', { message: 'The body must be a JSON object' });
  }
  return body as Record<string, unknown>;
}

/**
 * The body of a write to the task that the path names; `task_id` may be repeated in it.
 * @throws TaskwireError INVALID_REQUEST
 */
export function taskBodyOf(body: unknown, id: string): Readonly<Record<string, unknown>> {
  const object = objectOf(body);
  const repeated = object['task_id'];
  if (repeated !== undefined && textOf(repeated) !== id) {
    throw invalidField('task_id', 'differs from the id in the path');
  }
  return object;
}

/** An id as text. What else may stand there is not made text of: an object says itself how, and may fail at it. */
const textOf = (id: unknown): string | undefined =>
  typeof id === 'string' || typeof id === 'number' ? String(id) : undefined;

/** Tasks of a page that names no limit, and most tasks of any. */
const PAGE = 100;
const MAX_PAGE = 1_000;

const pageInput = z.object({
  limit: z.coerce.number().int().min(1).max(MAX_PAGE).default(PAGE),
  after: z.coerce.number().int().min(0).max(Number.MAX_SAFE_INTEGER).default(0),
});

/**
 * Which page of a list is wanted: `limit` entries after the one with id `after`.
 * @throws TaskwireError INVALID_REQUEST
 */
export function pageOf(query: URLSearchParams): z.output<typeof pageInput> {
  const [limit, after] = [query.get('limit'), query.get('after')];
  return parseInput(pageInput, { limit: limit ?? undefined, after: after ?? undefined });
}
