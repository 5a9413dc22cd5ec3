import { FairQueue } from '../base/fair-queue.js';
import { TurnReader } from '../base/turn-reader.js';
import { TaskwireError } from '../protocol/errors.js';
import type { TaskEvent } from '../protocol/events.js';
import { type Position, snapshotText } from '../protocol/messages.js';
import type { Room } from '../protocol/rooms.js';
import { streamMessageOf } from '../protocol/stream-message.js';
import type { ReplayPage, ReplayQuery, ReplayState, RoomCursor, Snapshot } from '../repository/log.js';
import type { EventPage, HubEvent, RoomSnapshot } from './message.js';

/** What the hub reads of the event log. Rejects when the database is away. */
export interface HubLog {
  heads(userIds: readonly string[]): Promise<ReadonlyMap<string, Position>>;
  read(query: ReplayQuery): Promise<ReplayPage>;
  state(userId: string): Promise<ReplayState | undefined>;
  /** @param before only tasks with lower ids */
  snapshot(room: Room, limit: number, bytes: number, before?: number): Promise<Snapshot | undefined>;
}

export interface LogReaderOptions {
  readonly REPLAY_PAGE: number;
  readonly REPLAY_CONCURRENCY: number;
  readonly MAX_SNAPSHOT_TASKS: number;
  readonly MAX_SNAPSHOT_BYTES: number;
}

/** Events that one read brings a stream that misses some. */
const REPAIR_PAGE = 1_000;

/** How much of a room one message brings: its newest tasks, or the newest of those below an id. */
export interface SnapshotExtent {
  /** Most tasks. */
  readonly limit?: number | undefined;
  /** Most bytes of the tasks. */
  readonly bytes?: number | undefined;
  /** Whether the rest follows, and the message says so. */
  readonly inParts: boolean;
  /** Only tasks with lower ids: a part. */
  readonly before?: number;
}

const SNAPSHOT_TYPES = { job: 'JOB_TASKS_SNAPSHOT', task: 'TASK_SNAPSHOT', user: 'USER_TASKS_SNAPSHOT' } as const;

/** Reads of one key that may wait. One connection has at most one for each user whose rooms it joins. */
const WAITING_PER_KEY = 10_000;

/**
 * Reads the event log for the streams and connections of one worker. Few reads run at a time, and equal ones are one.
 * Connections wait by key, and keys take turns. Gaps of live streams have a queue of their own: live rooms do not wait for
 * clients that come back.
 */
export class LogReader {
  readonly heads: TurnReader<Position>;
  private readonly queue: FairQueue;
  private readonly repairs: FairQueue;

  constructor(
    private readonly log: HubLog,
    private readonly options: LogReaderOptions,
  ) {
    this.heads = new TurnReader((userIds) => log.heads(userIds));
    this.repairs = new FairQueue({ concurrency: options.REPLAY_CONCURRENCY });
    this.queue = new FairQueue({
      concurrency: options.REPLAY_CONCURRENCY,
      waitingPerKey: WAITING_PER_KEY,
      refusal: () =>
        new TaskwireError('RATE_LIMIT_EXCEEDED', {
          message: 'Too many replays and snapshots of this API key wait',
          retryAfterMs: 5_000,
        }),
    });
  }

  /** Reads what a stream misses after a position. */
  missing(userId: string, after: number): Promise<EventPage> {
    return this.repairs.run(userId, () =>
      this.readPage({ userId, rooms: [{ kind: 'user', id: userId, after }], limit: REPAIR_PAGE }),
    );
  }

  /**
   * The next events of some rooms of one stream.
   * @param keyId the key in whose turn they are read
   */
  page(keyId: string, userId: string, rooms: readonly RoomCursor[]): Promise<EventPage> {
    const query = { userId, rooms, limit: this.options.REPLAY_PAGE };
    const name = `page ${userId} ${rooms.map(({ kind, id, after }) => `${kind}:${id} ${after}`).join(',')}`;
    return this.queue.share(name, keyId, () => this.readPage(query));
  }

  /** @throws TaskwireError NOT_FOUND */
  state(keyId: string, userId: string): Promise<ReplayState> {
    return this.queue.share(`state ${userId}`, keyId, async () => {
      const state = await this.log.state(userId);
      if (state === undefined) {
        throw new TaskwireError('NOT_FOUND');
      }
      return state;
    });
  }

  /** @throws TaskwireError NOT_FOUND */
  snapshot(keyId: string, room: Room, extent: SnapshotExtent): Promise<RoomSnapshot> {
    const { limit = '', bytes = '', inParts, before = '' } = extent;
    return this.queue.share(`snapshot ${room.name} ${limit} ${bytes} ${inParts} ${before}`, keyId, () =>
      this.readSnapshot(room, extent),
    );
  }

  private async readPage(query: ReplayQuery): Promise<EventPage> {
    const page = await this.log.read(query);
    return { ...page, events: page.events.map(hubEventOf) };
  }

  private async readSnapshot(room: Room, extent: SnapshotExtent): Promise<RoomSnapshot> {
    const { MAX_SNAPSHOT_TASKS, MAX_SNAPSHOT_BYTES } = this.options;
    const { inParts, before } = extent;
    const limit = Math.min(extent.limit ?? MAX_SNAPSHOT_TASKS, MAX_SNAPSHOT_TASKS);
    const bytes = Math.min(extent.bytes ?? MAX_SNAPSHOT_BYTES, MAX_SNAPSHOT_BYTES);
    const snapshot = await this.log.snapshot(room, limit, bytes, before);
    if (snapshot === undefined) {
      throw new TaskwireError('NOT_FOUND');
    }
    const { seq, epoch, truncated, oldest } = snapshot;
    const type = before === undefined ? SNAPSHOT_TYPES[room.kind] : 'SNAPSHOT_PART';
    const data = {
      ...(before === undefined ? {} : { room: room.name }),
      ...(room.kind === 'job' ? { job_id: room.id } : room.kind === 'task' ? { task_id: Number(room.id) } : {}),
      user_id: snapshot.userId,
      ...(truncated ? { ...(before === undefined ? { truncated } : {}), before: oldest } : {}),
      ...(truncated && inParts ? { parts: true } : {}),
      ...(before === undefined || truncated ? {} : { complete: true }),
    };
    const payload = Buffer.from(snapshotText(type, { ids: data, tasks: snapshot.tasks, position: { seq, epoch } }));
    return { userId: snapshot.userId, seq, epoch, truncated, oldest, message: { type, payload } };
  }
}

function hubEventOf(event: TaskEvent): HubEvent {
  const message = streamMessageOf(event);
  return event.unpublished === true ? { ...message, unpublished: true } : message;
}
