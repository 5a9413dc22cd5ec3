import { TaskwireError } from '../protocol/errors.js';
import type { SubscribeRequest } from '../protocol/messages.js';

type Fields = Record<string, unknown>;

const isObject = (value: unknown): value is Fields =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Longest epoch that is compared at all. */
const MAX_EPOCH_LENGTH = 64;

/**
 * Reads the data of a SUBSCRIBE: one room `{room, since?, epoch?, snapshot?}` or several
 * `{rooms: [name | {room, since?, epoch?, snapshot?}, ...]}`. The specification's `job_id`, `task_id` and `user_id` may
 * stand beside `room` and must then say the same.
 * @throws TaskwireError INVALID_SUBSCRIPTION_DATA, TOO_MANY_ROOMS
 */
export function parseSubscription(
  data: unknown,
  maxRooms: number,
): { readonly requests: readonly SubscribeRequest[]; readonly single: boolean } {
  if (isObject(data) && data['rooms'] !== undefined && data['room'] === undefined) {
    const rooms = roomList(data['rooms'], maxRooms, 'INVALID_SUBSCRIPTION_DATA');
    return { requests: rooms.map((room) => request(typeof room === 'string' ? { room } : room)), single: false };
  }
  return { requests: [request(data)], single: true };
}

/**
 * Reads the data of an UNSUBSCRIBE: `{room}` or `{rooms: [name, ...]}`.
 * @returns the names as they were given
 * @throws TaskwireError INVALID_UNSUBSCRIPTION_DATA, TOO_MANY_ROOMS
 */
export function parseUnsubscription(data: unknown, maxRooms: number): string[] {
  if (!isObject(data)) {
    throw new TaskwireError('INVALID_UNSUBSCRIPTION_DATA');
  }
  const rooms =
    data['room'] === undefined ? roomList(data['rooms'], maxRooms, 'INVALID_UNSUBSCRIPTION_DATA') : [data['room']];
  return rooms.map((room) => {
    if (typeof room !== 'string') {
      throw new TaskwireError('INVALID_UNSUBSCRIPTION_DATA', { details: { field: 'room', wants: 'a room name' } });
    }
    return room;
  });
}

function roomList(
  rooms: unknown,
  maxRooms: number,
  code: 'INVALID_SUBSCRIPTION_DATA' | 'INVALID_UNSUBSCRIPTION_DATA',
): unknown[] {
  if (!Array.isArray(rooms) || rooms.length === 0) {
    throw new TaskwireError(code, { details: { field: 'rooms', wants: 'a list of rooms' } });
  }
  if (rooms.length > maxRooms) {
    throw new TaskwireError('TOO_MANY_ROOMS', { details: { limit: maxRooms } });
  }
  return rooms;
}

function request(data: unknown): SubscribeRequest {
  if (!isObject(data)) {
    throw new TaskwireError('INVALID_SUBSCRIPTION_DATA');
  }
  const { room, since, epoch, snapshot } = data;
  check(typeof room === 'string', 'room', 'a room name');
  check(since === undefined || (Number.isSafeInteger(since) && Number(since) >= 0), 'since', 'an integer from 0');
  check(
    epoch === undefined || (typeof epoch === 'string' && epoch.length <= MAX_EPOCH_LENGTH),
    'epoch',
    'the epoch of an acknowledgement',
  );
  check(snapshot === undefined || typeof snapshot === 'boolean', 'snapshot', 'true or false');
  for (const kind of ['job', 'task', 'user']) {
    const field = `${kind}_id`;
    const id = data[field];
    check(
      id === undefined || !(room as string).startsWith(`${kind}:`) || (isId(id) && `${kind}:${id}` === room),
      field,
      'the same id as the room',
    );
  }
  return { room: room as string, since: since as number, epoch: epoch as string, snapshot: snapshot as boolean };
}

const isId = (id: unknown): id is string | number => typeof id === 'string' || typeof id === 'number';

function check(good: boolean, field: string, wants: string): void {
  if (!good) {
    throw new TaskwireError('INVALID_SUBSCRIPTION_DATA', { details: { field, wants } });
  }
}
