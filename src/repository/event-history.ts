import type { Knex } from 'knex';
import { preparedQuery } from '../database/query.js';
import { TaskwireError } from '../protocol/errors.js';
import type { EventType, TaskEvent } from '../protocol/events.js';
import type { Position } from '../protocol/messages.js';
import type { Room } from '../protocol/rooms.js';
import { EVENT, type EventRow, eventOf, STATE, type StateRow, stateOf } from './event-rows.js';

export interface HistoryQuery {
  /** Whose stream the room is in. */
  readonly userId: string;
  readonly room: Room;
  /** Events after this position; absent: all that the log has. */
  readonly since?: number | undefined;
  /** The epoch of `since`; absent: the stream's own. */
  readonly epoch?: string | undefined;
  /** Only events of these types; absent: all. */
  readonly types?: readonly EventType[] | undefined;
  /** Most events. */
  readonly limit: number;
}

/** Events of a room; `seq` and `epoch` say up to where they are complete: the position to go on from. */
export interface HistoryPage extends Position {
  /** By rising `seq`. */
  readonly events: readonly TaskEvent[];
  /**
   * Whether nothing is missing between `since` and the first event. Otherwise the log does not reach back so far, or `since`
   * is of another epoch or from the future, and the events are the oldest ones that are left.
   */
  readonly recovered: boolean;
  /** Whether there were more events when this page was read. */
  readonly more: boolean;
}

/** Events that one page looks at to find those of some types. */
const SCAN = 5_000;
/** Bytes of what the events of one page say, of which the first event may have more. */
const PAGE_BYTES = 4_194_304;

const COLUMNS = { job: ['job_id', 'numeric'], task: ['task_id', 'bigint'], user: ['user_id', 'text'] } as const;

/** Reads what happened in a room, page by page. */
export class EventHistory {
  constructor(private readonly db: Knex) {}

  /**
   * A page of a room's events. It reads what it returns; for events of some types, at most 5,000, so a page may be empty and
   * still say that there are more.
   * @throws TaskwireError NOT_FOUND when there is no such stream; DATABASE_UNAVAILABLE
   */
  async page({ userId, room, since, epoch, types, limit }: HistoryQuery): Promise<HistoryPage> {
    const [column, type] = COLUMNS[room.kind];
    const scan = types === undefined ? limit + 1 : SCAN;
    const rows = await preparedQuery<
      StateRow & Partial<EventRow> & { after: string; scanned: number; last: string | null; matched: number | null }
    >(
      this.db,
      `WITH state AS MATERIALIZED (
         SELECT ${STATE},
           CASE WHEN s.epoch = coalesce(?::text, s.epoch) AND s.seq >= ?::bigint THEN ?::bigint ELSE 0 END AS after
         FROM event_streams s WHERE s.user_id = ?
       ),
       scanned AS MATERIALIZED (
         SELECT * FROM task_events
         WHERE ${column} = ?::${type} AND seq > (SELECT after FROM state) ORDER BY seq LIMIT ?
       ),
       found AS (
         SELECT e.*, count(*) OVER () AS matched, row_number() OVER oldest = 1
           OR (row_number() OVER oldest <= ? AND sum(octet_length(changes::text)) OVER oldest <= ?) AS fits
         FROM (
           SELECT * FROM scanned WHERE user_id = ? AND (?::text[] IS NULL OR type = ANY(?::text[])) ORDER BY seq LIMIT ?
         ) e
         WINDOW oldest AS (ORDER BY seq)
       )
       SELECT state.*, ${EVENT}, e.matched::int, looked.scanned::int, looked.last
       FROM state CROSS JOIN (SELECT count(*) AS scanned, max(seq) AS last FROM scanned) looked
       LEFT JOIN found e ON e.fits ORDER BY e.seq`,
      [
        epoch ?? null,
        since ?? 0,
        since ?? 0,
        userId,
        room.id,
        scan,
        limit,
        PAGE_BYTES,
        userId,
        types ?? null,
        types ?? null,
        limit + 1,
      ],
    );
    const [first] = rows;
    if (first === undefined) {
      throw new TaskwireError('NOT_FOUND');
    }
    const state = stateOf(first);
    const events = rows.flatMap((row) => (row.seq == null ? [] : [eventOf(userId, state.epoch, row as EventRow)]));
    const after = Number(first.after);
    const cut = (first.matched ?? 0) > events.length;
    const exhausted = types === undefined || first.scanned < scan;
    return {
      events,
      epoch: state.epoch,
      seq: cut ? events.at(-1)!.seq : exhausted ? state.seq : Number(first.last),
      recovered: after === (since ?? 0) && after >= state.floor,
      more: cut || !exhausted,
    };
  }
}
