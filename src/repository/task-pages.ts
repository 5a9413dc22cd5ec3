import type { Position } from '../protocol/messages.js';
import type { Room, RoomKind } from '../protocol/rooms.js';
import { taskJson } from './task-json.js';

/** Tasks of a room as they are at `seq` of their owner's stream: every event up to it is in them, none after it. */
export interface TaskPage extends Position {
  readonly userId: string;
  /** JSON text of the list of `TaskRow`. */
  readonly tasks: string;
  /** Id of the last task of the list in its order; undefined when it is empty. */
  readonly last: number | undefined;
  /** Whether the room has more tasks, behind `last`. */
  readonly more: boolean;
}

export interface PageQuery {
  /** By rising ids, or the newest tasks first found. The list itself is by rising ids in both cases. */
  readonly order: 'oldest' | 'newest';
  /** Only tasks with higher ids; with lower ones in order `newest`. */
  readonly after?: number;
  /** Most tasks. */
  readonly limit: number;
  /** Most bytes of their JSON, of which the first task found may have more. */
  readonly bytes: number;
}

export interface PageRow {
  user_id: string;
  seq: string;
  epoch: string;
  tasks: string | null;
  last: string | null;
  more: boolean;
}

interface Scope {
  /** SQL of the user whose stream the room is in. */
  readonly owner: string;
  /** Column by which the room's tasks are found, and its type. */
  readonly column: string;
  readonly type: string;
}

const SCOPES: Readonly<Record<RoomKind, Scope>> = {
  job: { owner: '(SELECT user_id FROM jobs WHERE job_id = ?::numeric)', column: 'job_id', type: 'numeric' },
  task: { owner: '(SELECT user_id FROM tasks WHERE task_id = ?::bigint)', column: 'task_id', type: 'bigint' },
  user: { owner: '?::text', column: 'user_id', type: 'text' },
};

/** Higher than every task id. */
const END = '9223372036854775807';

/**
 * SQL of a page of a room's tasks and of the head of the stream that it is in, as one snapshot of the database: a `PageRow`,
 * or none when the room does not exist.
 *
 * It reads the rows that it returns and one more, however many the room has and whatever the statistics say. An equation
 * `job_id = ?` would not do: with it, the order by task ids is also that of the primary key, so the planner may walk through
 * all tasks, and when it is kept from that, it reads the whole job and sorts it. A comparison of rows leaves it only the
 * index that begins with the room.
 */
export function pageStatement(room: Room, query: PageQuery): { readonly sql: string; readonly bindings: unknown[] } {
  const { owner, column, type } = SCOPES[room.kind];
  const newest = query.order === 'newest';
  const [beyond, within, direction] = newest ? ['<', '>=', 'DESC'] : ['>', '<=', 'ASC'];
  const [key, from, order] =
    room.kind === 'task'
      ? ['t.task_id', '?::bigint', '']
      : [
          `(t.${column}, t.task_id)`,
          `(?::${type}, ?::bigint)`,
          `ORDER BY t.${column} ${direction}, t.task_id ${direction}`,
        ];
  const where =
    room.kind === 'task'
      ? `${key} = ${from} AND ${key} ${beyond} ${from}`
      : `${key} ${beyond} ${from} AND t.${column} ${within} ?::${type}`;
  const after = query.after ?? (newest ? END : 0);
  return {
    sql: `SELECT s.user_id, s.seq, s.epoch, page.tasks, page.last, page.more
     FROM event_streams s, LATERAL (
       SELECT string_agg(p.json, ',' ORDER BY p.task_id) FILTER (WHERE p.fits) AS tasks,
         ${newest ? 'min' : 'max'}(p.task_id) FILTER (WHERE p.fits) AS last,
         coalesce(NOT bool_and(p.fits), false) AS more
       FROM (
         SELECT r.task_id, r.json, row_number() OVER listed = 1
           OR (row_number() OVER listed <= ? AND sum(octet_length(r.json)) OVER listed <= ?) AS fits
         FROM (SELECT t.task_id, ${taskJson('t')}::text AS json FROM tasks t WHERE ${where} ${order} LIMIT ?) r
         WINDOW listed AS (ORDER BY r.task_id ${direction})
       ) p
     ) page
     WHERE s.user_id = ${owner}`,
    bindings: [
      query.limit,
      query.bytes,
      room.id,
      after,
      ...(room.kind === 'task' ? [] : [room.id]),
      query.limit + 1,
      room.id,
    ],
  };
}

export function pageOfRow({ user_id, seq, epoch, tasks, last, more }: PageRow): TaskPage {
  return {
    userId: user_id,
    seq: Number(seq),
    epoch,
    tasks: `[${tasks ?? ''}]`,
    last: last === null ? undefined : Number(last),
    more,
  };
}
