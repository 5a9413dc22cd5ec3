import type { Knex } from 'knex';
import { preparedQuery, query } from '../database/query.js';
import { TaskwireError } from '../protocol/errors.js';
import type { Position } from '../protocol/messages.js';
import type { Room, RoomKind } from '../protocol/rooms.js';
import { EVENT, type EventRow, eventOf, STATE, type StateRow, stateOf } from './event-rows.js';
import type { ReplayPage, ReplayQuery, ReplayState, RoomOwner, Snapshot, Witness } from './log.js';
import { type PageRow, pageOfRow, pageStatement } from './task-pages.js';
import { NEW_EPOCH } from './users.js';
import { witness } from './witness.js';

/** Bytes of what the events of one page say, of which the first event may have more. */
const PAGE_BYTES = 4_194_304;

/** A row that comes with a `Witness` when it was asked for. */
interface Witnessed {
  readonly witness?: Witness;
}

const witnessOf = ({ witness: found }: Witnessed): Witnessed => (found === undefined ? {} : { witness: found });

/** Reads the log of committed events, and the states that belong to it. All methods reject with a TaskwireError. */
export class EventLog {
  /** @param witnessed whether pages and snapshots come with a `Witness` */
  constructor(
    private readonly db: Knex,
    private readonly witnessed = false,
  ) {}

  /** Heads of the streams that exist. */
  async heads(userIds: readonly string[]): Promise<Map<string, Position>> {
    const rows = await preparedQuery<{ user_id: string; seq: string; epoch: string }>(
      this.db,
      'SELECT user_id, seq, epoch FROM event_streams WHERE user_id = ANY(?::text[])',
      [userIds],
    );
    return new Map(rows.map(({ user_id, seq, epoch }) => [user_id, { seq: Number(seq), epoch }]));
  }

  /** Head and floor of a stream; undefined when there is none. */
  async state(userId: string): Promise<ReplayState | undefined> {
    const [row] = await preparedQuery<StateRow>(this.db, `SELECT ${STATE} FROM event_streams s WHERE s.user_id = ?`, [
      userId,
    ]);
    return row === undefined ? undefined : stateOf(row);
  }

  /**
   * Events of some rooms of one stream, each room after a position of its own. Reads by each room's index, so it costs
   * what it returns; head, floor and events are of one snapshot. A page also ends at some megabytes.
   * @throws TaskwireError NOT_FOUND when there is no such stream
   */
  async read({ userId, rooms, limit }: ReplayQuery): Promise<ReplayPage> {
    const parts: string[] = [];
    const bindings: unknown[] = [];
    // One event more than asked for shows that there are more.
    const take = limit + 1;
    const user = rooms.find(({ kind }) => kind === 'user');
    if (user !== undefined) {
      parts.push('(SELECT * FROM task_events WHERE user_id = ? AND seq > ? ORDER BY seq LIMIT ?)');
      bindings.push(userId, user.after, take);
    }
    for (const [kind, column, type] of [
      ['job', 'job_id', 'numeric'],
      ['task', 'task_id', 'bigint'],
    ] as const) {
      const some = rooms.filter((room) => room.kind === kind);
      if (some.length > 0) {
        // A room has one owner. That is asked after the limit, so that nothing but the room's own index serves.
        parts.push(`(SELECT e.* FROM unnest(?::${type}[], ?::bigint[]) AS room (id, after), LATERAL (
            SELECT * FROM task_events WHERE ${column} = room.id AND seq > room.after ORDER BY seq LIMIT ?
          ) e WHERE e.user_id = ?)`);
        bindings.push(
          some.map(({ id }) => id),
          some.map(({ after }) => after),
          take,
          userId,
        );
      }
    }
    const events = parts.length === 0 ? 'SELECT * FROM task_events WHERE false' : parts.join(' UNION ALL ');
    const rows = await query<StateRow & Partial<EventRow> & Witnessed & { total: number | null }>(
      this.db,
      `WITH state AS MATERIALIZED (SELECT ${STATE}${this.witnessed ? `, ${witness('s')}` : ''} FROM event_streams s WHERE s.user_id = ?),
       found AS (SELECT DISTINCT ON (e.seq) e.* FROM (${events}) e ORDER BY e.seq LIMIT ?),
       sized AS (
         SELECT found.*, count(*) OVER () AS total,
           row_number() OVER oldest = 1 OR sum(octet_length(changes::text)) OVER oldest <= ? AS fits
         FROM found WINDOW oldest AS (ORDER BY seq)
       )
       SELECT state.*, ${EVENT}, e.total::int FROM state LEFT JOIN sized e ON e.fits ORDER BY e.seq`,
      [userId, ...bindings, take, PAGE_BYTES],
    );
    const [first] = rows;
    if (first === undefined) {
      throw new TaskwireError('NOT_FOUND');
    }
    const state = stateOf(first);
    const found = rows.flatMap((row) => (row.seq == null ? [] : [eventOf(userId, state.epoch, row as EventRow)]));
    return {
      ...state,
      events: found.slice(0, limit),
      complete: (first.total ?? 0) <= Math.min(limit, found.length),
      ...witnessOf(first),
    };
  }

  /**
   * The tasks of a room, consistent with the stream's head that comes with them: one statement, one snapshot.
   * @param limit most tasks; of more, the newest are taken
   * @param bytes most bytes of their JSON, of which the newest task may have more
   * @param before only tasks with lower ids
   * @returns undefined when the room does not exist
   */
  async snapshot(
    room: Room,
    limit: number,
    bytes: number = Number.MAX_SAFE_INTEGER,
    before?: number,
  ): Promise<Snapshot | undefined> {
    const below = before === undefined ? {} : { after: before };
    const { sql, bindings } = pageStatement(room, { order: 'newest', limit, bytes, ...below });
    const statement = this.witnessed ? `SELECT page.*, ${witness('page')} FROM (${sql}) page` : sql;
    const [row] = await preparedQuery<PageRow & Witnessed>(this.db, statement, bindings);
    if (row === undefined) {
      return undefined;
    }
    const { userId, seq, epoch, tasks, more, last } = pageOfRow(row);
    return { userId, seq, epoch, tasks, truncated: more, oldest: last, ...witnessOf(row) };
  }

  /** The owners of some rooms with the heads of their streams, by room name; rooms that do not exist are left out. */
  async ownersOf(rooms: readonly Room[]): Promise<Map<string, RoomOwner>> {
    const idsOf = (kind: RoomKind): string[] => rooms.filter((room) => room.kind === kind).map(({ id }) => id);
    const rows = await preparedQuery<{ name: string; user_id: string; seq: string | null; epoch: string | null }>(
      this.db,
      `SELECT name, user_id, seq, epoch FROM (
         SELECT 'job:' || job_id AS name, user_id FROM jobs WHERE job_id = ANY(?::numeric[])
         UNION ALL SELECT 'task:' || task_id, user_id FROM tasks WHERE task_id = ANY(?::bigint[])
         UNION ALL SELECT 'user:' || user_id, user_id FROM users WHERE user_id = ANY(?::text[])
       ) AS room LEFT JOIN event_streams USING (user_id)`,
      [idsOf('job'), idsOf('task'), idsOf('user')],
    );
    return new Map(
      rows.map(({ name, user_id: userId, seq, epoch }) => [
        name,
        { userId, head: seq === null || epoch === null ? undefined : { seq: Number(seq), epoch } },
      ]),
    );
  }

  /**
   * Gives every stream a new epoch, so that positions taken before are answered with a snapshot, and connected clients begin
   * anew. Its numbers go on; a user without a stream gets one. For a database that came from a backup, where the numbers
   * after the backup's last one are given out a second time, to other events; and after changes that nobody was told of.
   * @returns how many streams there are
   */
  async renewEpochs(): Promise<number> {
    // In one order, so that two who do it at once wait for each other instead of for ever.
    const rows = await query<{ streams: number }>(
      this.db,
      `WITH held AS MATERIALIZED (SELECT user_id FROM event_streams ORDER BY user_id FOR UPDATE),
       renewed AS (
         UPDATE event_streams s SET epoch = ${NEW_EPOCH} FROM held WHERE s.user_id = held.user_id RETURNING s.user_id
       ),
       made AS (
         INSERT INTO event_streams (user_id, epoch)
         SELECT user_id, ${NEW_EPOCH} FROM users ON CONFLICT DO NOTHING RETURNING user_id
       )
       SELECT (SELECT count(*) FROM renewed)::int + (SELECT count(*) FROM made)::int AS streams,
         pg_notify(taskwire_channel(), '')`,
      [],
    );
    return rows[0]!.streams;
  }
}
