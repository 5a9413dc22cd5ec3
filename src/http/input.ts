import { z } from 'zod';
import { TaskwireError } from '../protocol/errors.js';
import { assertKnownFields } from '../protocol/fields.js';
import { isJobId, isTaskId, isUserId, jobRoom, parseRoom, type Room, taskRoom, userRoom } from '../protocol/rooms.js';
import { invalidFields, jobIdInput, parseInput } from '../repository/task-input.js';

/** INVALID_REQUEST that names one field. */
export function invalidField(field: string, message: string): TaskwireError {
  return invalidFields([{ field, message }]);
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
 * The room of the user that a path or a query names.
 * @throws TaskwireError INVALID_REQUEST
 */
export function userRoomOf(id: string | undefined): Room {
  if (id === undefined || !isUserId(id)) {
    throw invalidField('user_id', 'wants 1 to 128 printable characters');
  }
  return parseRoom(userRoom(id));
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
 * @returns the other fields
 * @throws TaskwireError INVALID_REQUEST
 */
export function taskBodyOf(body: unknown, id: string): Readonly<Record<string, unknown>> {
  const object = objectOf(body);
  const repeated = object['task_id'];
  if (repeated !== undefined && textOf(repeated) !== id) {
    throw invalidField('task_id', 'differs from the id in the path');
  }
  const { task_id, ...fields } = object;
  return fields;
}

/** An id as text; undefined for anything else. `String` of an object could run its own code and throw. */
const textOf = (id: unknown): string | undefined =>
  typeof id === 'string' || typeof id === 'number' ? String(id) : undefined;

/** Fields of a query that belong into a header, and what to do instead. */
const IN_HEADERS = {
  api_key: 'no key is taken from a query string here; send the header X-Api-Key',
  token: 'no token is taken from a query string here; send the header Authorization: Bearer TOKEN',
};

/**
 * The fields of a query, as text.
 * @param known the fields that are read
 * @throws TaskwireError INVALID_REQUEST when there is another one: nobody would read it
 */
export function queryFields<Name extends string>(
  query: URLSearchParams,
  known: readonly Name[],
): Record<Name, string | undefined> {
  assertKnownFields(Object.fromEntries(query), { known, misplaced: IN_HEADERS, code: 'INVALID_REQUEST' });
  return Object.fromEntries(known.map((name) => [name, query.get(name) ?? undefined])) as Record<
    Name,
    string | undefined
  >;
}

/** Default and highest limit of a page. */
const PAGE = 100;
const MAX_PAGE = 1_000;

/** A whole number of a query, in plain digits. */
export const digits = (min: number, max: number) =>
  z
    .string()
    .refine((text) => /^\d{1,16}$/.test(text) && Number(text) >= min && Number(text) <= max, {
      message: `wants a whole number from ${min} to ${max}`,
    })
    .meta({ type: 'integer', minimum: min, maximum: max })
    .transform(Number);

const pageLimit = digits(1, MAX_PAGE).default(PAGE);

export const pageInput = z.object({ limit: pageLimit, after: digits(0, Number.MAX_SAFE_INTEGER).default(0) });

/**
 * Which page of a list is wanted: `limit` entries after the one with id `after`.
 * @throws TaskwireError INVALID_REQUEST
 */
export function pageOf(query: URLSearchParams): z.output<typeof pageInput> {
  return parseInput(pageInput, queryFields(query, ['limit', 'after']));
}

export const jobPageInput = z.object({ limit: pageLimit, after: jobIdInput.optional() });

/**
 * Which page of a list of jobs is wanted, and whose; see `pageOf`.
 * @throws TaskwireError INVALID_REQUEST
 */
export function jobPageOf(query: URLSearchParams): {
  page: z.output<typeof jobPageInput>;
  user: string | undefined;
} {
  const { user_id: user, ...page } = queryFields(query, ['limit', 'after', 'user_id']);
  return { page: parseInput(jobPageInput, page), user };
}
