import { SingleFlight } from '../base/single-flight.js';
import { TurnReader } from '../base/turn-reader.js';
import { Turns } from '../base/turns.js';
import { TaskwireError } from '../protocol/errors.js';
import { type Position, snapshotText } from '../protocol/messages.js';
import type { Room } from '../protocol/rooms.js';
import { streamMessageOf } from '../protocol/stream-message.js';
import type { ReplayPage, ReplayQuery, ReplayState, RoomCursor, Snapshot } from '../repository/log.js';
import type { EventPage, RoomSnapshot } from './message.js';

/** What the hub asks of the event log; a database that is away shows as a rejection. */
export interface HubLog {
  heads(userIds: readonly string[]): Promise<ReadonlyMap<string, Position>>;
  read(query: ReplayQuery): Promise<ReplayPage>;
  state(userId: string): Promise<ReplayState | undefined>;
  snapshot(room: Room, limit: number, bytes: number): Promise<Snapshot | undefined>;
}

export interface LogReaderOptions {
  readonly REPLAY_PAGE: number;
  readonly REPLAY_CONCURRENCY: number;
  readonly MAX_SNAPSHOT_TASKS: number;
  readonly MAX_SNAPSHOT_BYTES: number;
}

/** Events that one read brings a stream that misses some. */
const REPAIR_PAGE = 1_000;

const SNAPSHOT_TYPES = { job: 'JOB_TASKS_SNAPSHOT', task: 'TASK_SNAPSHOT', user: 'USER_TASKS_SNAPSHOT' } as const;

/** The event log as the streams and connections of one worker read it: equal reads at one time are one, and few run at once. */
export class LogReader {
  readonly heads: TurnReader<Position>;
  private readonly turns: Turns;
  /** Connections that are live do not wait for those that come back. */
  private readonly repairTurns: Turns;
  private readonly pages = new SingleFlight<EventPage>();
  private readonly states = new SingleFlight<ReplayState>();
  private readonly snapshots = new SingleFlight<RoomSnapshot>();

  constructor(
    private readonly log: HubLog,
    private readonly options: LogReaderOptions,
  ) {
    this.heads = new TurnReader((userIds) => log.heads(userIds));
    this.turns = new Turns(options.REPLAY_CONCURRENCY);
    this.repairTurns = new Turns(options.REPLAY_CONCURRENCY);
  }

  /** What a stream misses after a position. */
  missing(userId: string, after: number): Promise<EventPage> {
    return this.repairTurns.run(() =>
      this.readPage({ userId, rooms: [{ kind: 'user', id: userId, after }], limit: REPAIR_PAGE }),
    );
  }

  /** The next events of some rooms of one stream. */
  page(userId: string, rooms: readonly RoomCursor[]): Promise<EventPage> {
    const query = { userId, rooms, limit: this.options.REPLAY_PAGE };
    const key = `${userId} ${rooms.map(({ kind, id, after }) => `${kind}:${id} ${after}`).join(',')}`;
    return this.pages.run(key, () => this.turns.run(() => this.readPage(query)));
  }

  /** @throws TaskwireError NOT_FOUND */
  state(userId: string): Promise<ReplayState> {
    return this.states.run(userId, async () => {
      const state = await this.turns.run(() => this.log.state(userId));
      if (state === undefined) {
        throw new TaskwireError('NOT_FOUND');
      }
      return state;
    });
  }

  /** @throws TaskwireError NOT_FOUND */
  snapshot(room: Room): Promise<RoomSnapshot> {
    return this.snapshots.run(room.name, () => this.turns.run(() => this.readSnapshot(room)));
  }

  private async readPage(query: ReplayQuery): Promise<EventPage> {
    const page = await this.log.read(query);
    return { ...page, events: page.events.map(streamMessageOf) };
  }

  private async readSnapshot(room: Room): Promise<RoomSnapshot> {
    const snapshot = await this.log.snapshot(room, this.options.MAX_SNAPSHOT_TASKS, this.options.MAX_SNAPSHOT_BYTES);
    if (snapshot === undefined) {
      throw new TaskwireError('NOT_FOUND');
    }
    const { seq, epoch, userId, tasks, truncated } = snapshot;
    const type = SNAPSHOT_TYPES[room.kind];
    const payload = Buffer.from(
      snapshotText(type, {
        ids: {
          ...(room.kind === 'job' ? { job_id: room.id } : room.kind === 'task' ? { task_id: Number(room.id) } : {}),
          user_id: userId,
          ...(truncated ? { truncated } : {}),
        },
        tasks,
        position: { seq, epoch },
      }),
    );
    return { seq, epoch, message: { type, payload } };
  }
}
