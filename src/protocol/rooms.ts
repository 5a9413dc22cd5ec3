import { ERRORS, TaskwireError } from './errors.js';
import { meant, shown } from './nearest.js';

export type RoomKind = 'job' | 'task' | 'user';

/** A parsed room name. `name` is canonical: two names of one room never differ. */
export interface Room {
  readonly kind: RoomKind;
  /** The part after the colon: a job id (decimal), a task id (decimal) or a user id. */
  readonly id: string;
  readonly name: string;
}

/** Longest room name that is looked at; a longer one is refused before it is parsed. */
export const MAX_ROOM_NAME_LENGTH = 160;

const JOB_ID = /^(?:0|[1-9][0-9]{0,77})$/;
const TASK_ID = /^[1-9][0-9]{0,15}$/;
// Printable ASCII without space, double quotes, backslash and angle brackets: it can stand in JSON, in a
// channel name, in a log line and in HTML as it is.
const USER_ID = /^[!#-;=?-[\]-~]{1,128}$/;

/** The same as text, for documents. */
export const ID_PATTERNS: Readonly<Record<RoomKind, string>> = {
  job: JOB_ID.source,
  task: TASK_ID.source,
  user: USER_ID.source,
};

/** Whether `text` is a job id: an unsigned integer of up to 78 digits without leading zeros. */
export function isJobId(text: string): boolean {
  return JOB_ID.test(text);
}

/** Whether `text` is a task id: a positive safe integer in decimal. */
export function isTaskId(text: string): boolean {
  return TASK_ID.test(text) && Number.isSafeInteger(Number(text));
}

/** Whether `text` is a user id: 1 to 128 printable ASCII characters without space, double quotes, `\`, `<` and `>`. */
export function isUserId(text: string): boolean {
  return USER_ID.test(text);
}

export const jobRoom = (jobId: string): string => `job:${jobId}`;
export const taskRoom = (taskId: number | string): string => `task:${taskId}`;
export const userRoom = (userId: string): string => `user:${userId}`;

/**
 * Parses `job:{job_id}`, `task:{task_id}` or `user:{user_id}`.
 * @throws TaskwireError INVALID_ROOM
 */
export function parseRoom(name: unknown): Room {
  if (typeof name === 'string' && name.length <= MAX_ROOM_NAME_LENGTH) {
    // Up to the colon, or all of a name without one.
    const [kind = ''] = name.split(':', 1);
    const id = name.slice(kind.length + 1);
    if ((kind === 'job' && isJobId(id)) || (kind === 'task' && isTaskId(id)) || (kind === 'user' && isUserId(id))) {
      return { kind, id, name };
    }
  }
  throw new TaskwireError('INVALID_ROOM', {
    message: `${ERRORS.INVALID_ROOM.message}: ${shown(name)} is none of job:{job_id}, task:{task_id}, user:{user_id}${meant(nearestRoom(name))}`,
  });
}

/** The room that somebody meant who wrote `JOB:1`, `jobs/1`, `job-01` or `job: 1`. */
function nearestRoom(name: unknown): string | undefined {
  const match = typeof name === 'string' ? /^\s*(job|task|user)s?\s*[:/_.#-]\s*([^\s]{1,128})\s*$/i.exec(name) : null;
  if (match === null) {
    return undefined;
  }
  const kind = match[1]!.toLowerCase();
  const id = kind === 'user' ? match[2]! : match[2]!.replace(/^0+(?=\d)/, '');
  const valid = kind === 'job' ? isJobId(id) : kind === 'task' ? isTaskId(id) : isUserId(id);
  return valid ? `${kind}:${id}` : undefined;
}
