import { type ErrorCode, TaskwireError } from '../protocol/errors.js';
import { assertKnownFields, isObject, wrongField } from '../protocol/fields.js';
import type { SnapshotRequest, SubscribeRequest } from '../protocol/messages.js';

type Fields = Readonly<Record<string, unknown>>;

/** Longest epoch that is compared at all. */
const MAX_EPOCH_LENGTH = 64;

/** Fields of a room. The specification's ids may stand beside `room` and must then say the same. */
const ROOM_FIELDS = ['room', 'since', 'epoch', 'snapshot', 'job_id', 'task_id', 'user_id'];
const LIST = '{"rooms":["job:1",{"room":"job:2","since":42,"epoch":"9f2c61d05ab7"}]}';
const MISPLACED_IN_LIST = Object.fromEntries(
  ROOM_FIELDS.map((field) => [
    field,
    field === 'room'
      ? 'send "room" or "rooms", not both'
      : `with "rooms" it belongs to each room of its own, as in ${LIST}`,
  ]),
);
const MISPLACED_IN_ROOM = {
  type: 'the data of a message is the object with the room alone',
  data: 'the data of a message is the object with the room alone',
  request_id: 'it stands beside "type" and "data"; Socket.IO has acknowledgements instead',
  rooms: 'a list of rooms cannot stand in a room',
};
const MISPLACED_IN_SNAPSHOT = Object.fromEntries(ROOM_FIELDS.map((field) => [field, 'it belongs beside "snapshot"']));

/** A room of a request, or why it cannot be read. `room` is what was sent as its name. */
export type RoomRequest = SubscribeRequest | { readonly room: unknown; readonly error: TaskwireError };

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
  const { rooms, single } = roomsOf(data, maxRooms, 'INVALID_SUBSCRIPTION_DATA');
  return { requests: rooms.map((room) => request(room, 'INVALID_SUBSCRIPTION_DATA')), single };
}

/**
 * Reads the data of an UNSUBSCRIBE. It takes what a SUBSCRIBE takes, so that a client can send the same again; what is not
 * needed to leave is checked and has no effect. One wrong room in a list does not keep the others from being left.
 * @throws TaskwireError INVALID_UNSUBSCRIPTION_DATA, TOO_MANY_ROOMS
 */
export function parseUnsubscription(
  data: unknown,
  maxRooms: number,
): { readonly requests: readonly RoomRequest[]; readonly single: boolean } {
  const { rooms, single } = roomsOf(data, maxRooms, 'INVALID_UNSUBSCRIPTION_DATA');
  if (single) {
    return { requests: [request(rooms[0], 'INVALID_UNSUBSCRIPTION_DATA')], single };
  }
  const requests = rooms.map((room): RoomRequest => {
    try {
      return request(room, 'INVALID_UNSUBSCRIPTION_DATA');
    } catch (error) {
      return { room: isObject(room) ? room['room'] : room, error: error as TaskwireError };
    }
  });
  return { requests, single };
}

/** The rooms of a request, none of them looked at yet. */
function roomsOf(data: unknown, maxRooms: number, code: ErrorCode): { rooms: readonly unknown[]; single: boolean } {
  if (!isObject(data)) {
    throw new TaskwireError(code, { message: noObject(data), details: { field: 'data' } });
  }
  const { rooms } = data;
  if (rooms === undefined) {
    return { rooms: [data], single: true };
  }
  assertKnownFields(data, { known: ['rooms'], misplaced: MISPLACED_IN_LIST, code });
  if (!Array.isArray(rooms) || rooms.length === 0) {
    throw wrongField(code, 'rooms', `a list with at least one room, as in ${LIST}`);
  }
  if (rooms.length > maxRooms) {
    throw new TaskwireError('TOO_MANY_ROOMS', {
      message: `One request may name ${maxRooms} rooms`,
      details: { limit: maxRooms },
    });
  }
  return { rooms, single: false };
}

/** What to send instead of data that is no object. */
function noObject(data: unknown): string {
  if (typeof data === 'string') {
    const looksLikeJson = data.trimStart().startsWith('{');
    return looksLikeJson
      ? 'The data is a string of JSON; send the object itself'
      : 'The data wants an object: send {"room":"job:123"}, not a bare name';
  }
  return Array.isArray(data)
    ? `The data wants an object: send the list as ${LIST}`
    : 'The data is missing: send an object such as {"room":"job:123"}';
}

function request(data: unknown, code: ErrorCode): SubscribeRequest {
  if (typeof data === 'string') {
    return { room: data };
  }
  if (!isObject(data)) {
    throw wrongField(code, 'rooms', `names and objects with a room, as in ${LIST}`);
  }
  assertKnownFields(data, { known: ROOM_FIELDS, misplaced: MISPLACED_IN_ROOM, code });
  const { room, since, epoch, snapshot } = data;
  if (typeof room !== 'string') {
    throw wrongField(
      code,
      'room',
      Array.isArray(room) ? 'one name; send several as "rooms"' : 'a name such as "job:123"',
    );
  }
  if (since !== undefined && !(Number.isSafeInteger(since) && Number(since) >= 0)) {
    throw wrongField(code, 'since', 'an integer from 0: the "seq" of your position; leave it out when you have none');
  }
  if (epoch !== undefined && !(typeof epoch === 'string' && epoch.length <= MAX_EPOCH_LENGTH)) {
    throw wrongField(code, 'epoch', 'the "epoch" that came with your position; leave it out when you have none');
  }
  for (const kind of ['job', 'task', 'user']) {
    const field = `${kind}_id`;
    if (data[field] !== undefined && room.startsWith(`${kind}:`) && !isIdOf(room.slice(kind.length + 1), data[field])) {
      throw wrongField(code, field, `the same id as the room, ${JSON.stringify(room.slice(kind.length + 1, 160))}`);
    }
  }
  return {
    room,
    ...(since === undefined ? {} : { since: since as number }),
    ...(epoch === undefined ? {} : { epoch }),
    ...(snapshot === undefined ? {} : { snapshot: snapshotOf(snapshot, code) }),
  };
}

/** Whether an id says the same as a room. A number above 2^53 may have been rounded by a parser on the way: then almost. */
function isIdOf(text: string, id: unknown): boolean {
  return typeof id === 'number' && !Number.isSafeInteger(id) ? Number(text) === id : isId(id) && String(id) === text;
}

const isId = (id: unknown): id is string | number => typeof id === 'string' || typeof id === 'number';

function snapshotOf(snapshot: unknown, code: ErrorCode): boolean | SnapshotRequest {
  if (typeof snapshot === 'boolean') {
    return snapshot;
  }
  if (!isObject(snapshot)) {
    throw wrongField(code, 'snapshot', 'true, false, or an object such as {"parts":true} or {"limit":100}');
  }
  assertKnownFields(snapshot, { known: ['parts', 'limit', 'before'], misplaced: MISPLACED_IN_SNAPSHOT, code });
  const { parts, limit, before } = snapshot as Fields;
  if (parts !== undefined && typeof parts !== 'boolean') {
    throw wrongField(code, 'snapshot.parts', 'true or false');
  }
  if (limit !== undefined && !(Number.isSafeInteger(limit) && Number(limit) >= 1)) {
    throw wrongField(code, 'snapshot.limit', 'an integer from 1');
  }
  if (before !== undefined && !(Number.isSafeInteger(before) && Number(before) >= 1)) {
    throw wrongField(code, 'snapshot.before', 'the "before" of the snapshot that was truncated');
  }
  return {
    ...(parts === undefined ? {} : { parts }),
    ...(limit === undefined ? {} : { limit: limit as number }),
    ...(before === undefined ? {} : { before: before as number }),
  };
}
