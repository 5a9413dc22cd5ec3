import type { TaskwireError } from '../protocol/errors.js';
import type { SnapshotRequest, SubscribeResult } from '../protocol/messages.js';
import type { Room } from '../protocol/rooms.js';
import type { Connection } from './connection.js';
import type { Member, RoomEntry, Stream } from './stream.js';

/** What a client asked of one room, its right to it checked. */
export interface JoinRequest {
  readonly room: Room;
  readonly since?: number | undefined;
  readonly epoch?: string | undefined;
  readonly snapshot?: boolean | SnapshotRequest | undefined;
}

export interface Join {
  readonly request: JoinRequest;
  /** Called once: in the turn in which the room is joined, or when that failed. */
  readonly reply: (outcome: SubscribeResult | TaskwireError) => void;
}

/** A room that a connection has joined: it has been sent every event of the room with `seq > from`. */
export interface Place {
  readonly entry: RoomEntry;
  readonly from: number;
}

/**
 * One connection in one stream, in any number of its rooms.
 *
 * While `held`, live events pass it by: a catch-up is under way, which ends by sending what passed, in order, and
 * releasing it in the same turn. Otherwise it has been sent every event of its rooms up to the stream's head or up to
 * `after`, whichever is higher (a replay may know the log further than the stream does).
 */
export class Membership implements Member {
  /** As long as it has to be: an array that is pushed to keeps room for seventeen. */
  places: readonly Place[] = [];
  after = 0;
  held = false;
  stamp = 0;
  /** Joins that wait for the catch-up under way. */
  joins: Join[] = [];
  catchingUp = false;
  /** Highest position that the client was told outside of events. */
  told = 0;
  closed = false;

  constructor(
    readonly connection: Connection,
    readonly stream: Stream,
  ) {}

  /** Up to where everything of the joined rooms has been sent. */
  get position(): number {
    return Math.max(this.after, this.stream.last);
  }

  enter(room: Room, from: number): void {
    this.leave(room);
    const entry = this.stream.room(room);
    entry.members.add(this);
    this.places = [...this.places, { entry, from }];
  }

  leave(room: Room): boolean {
    const left = this.places.find((place) => place.entry.room.name === room.name);
    if (left === undefined) {
      return false;
    }
    this.places = this.places.filter((place) => place !== left);
    left.entry.members.delete(this);
    this.stream.release(left.entry);
    return true;
  }

  leaveAll(): void {
    for (const { entry } of this.places) {
      entry.members.delete(this);
      this.stream.release(entry);
    }
    this.places = [];
    this.joins = [];
    this.closed = true;
  }
}

/** Whether an event belongs to a room of its own stream. */
export function belongs(event: { readonly jobId: string; readonly taskId: string }, room: Room): boolean {
  return room.kind === 'user' || (room.kind === 'job' ? event.jobId === room.id : event.taskId === room.id);
}
