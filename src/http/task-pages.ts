import { TaskwireError } from '../protocol/errors.js';
import type { Room } from '../protocol/rooms.js';
import { type Identity, maySee, refusalOf } from '../protocol/tasks.js';
import type { TaskReader } from '../repository/task-reader.js';
import type { Answer } from './endpoint.js';

/** Most bytes of the tasks of one page. */
const PAGE_BYTES = 4_194_304;

/**
 * A page of a job's or a user's tasks, with the position that it shows.
 * @param identity who may see the room, as far as is known before it is read
 * @param page which one: `limit` tasks after the one with id `after`
 * @throws TaskwireError NOT_FOUND, ACCESS_DENIED
 */
export async function pageAnswer(
  tasks: Pick<TaskReader, 'getTaskPage'>,
  identity: Identity,
  room: Room,
  page: { readonly after: number; readonly limit: number },
): Promise<Answer> {
  const found = await tasks.getTaskPage(room, { ...page, bytes: PAGE_BYTES });
  if (found === undefined) {
    throw new TaskwireError('NOT_FOUND');
  }
  assertSees(identity, room, found.userId);
  const { seq, epoch, last, more } = found;
  const ends = { next: more ? last : null, seq, epoch };
  // The tasks are JSON text already; ids hold nothing that JSON escapes (rooms.ts).
  const body = `{"${room.kind}_id":"${room.id}","tasks":${found.tasks},${JSON.stringify(ends).slice(1)}`;
  return { body, position: found };
}

/**
 * What was read may belong to somebody else than a moment before.
 * @throws TaskwireError ACCESS_DENIED, NOT_FOUND
 */
export function assertSees(identity: Identity, room: Room, owner: string): void {
  if (!maySee(identity, room.name, owner)) {
    throw new TaskwireError(refusalOf(identity));
  }
}
