import type { Room } from '../protocol/rooms.js';
import type { HubEvent } from './message.js';

/** Who is given a stream's events, as the stream sees it. */
export interface Member {
  /**
   * Takes an event that has just become the stream's last one.
   * @param delivery numbers the event: who sits in several of its rooms is offered it several times
   * @returns whether it was sent
   */
  offer(event: HubEvent, delivery: number): boolean;
  /** The log is another one now: the member has to subscribe again. */
  reset(): void;
}

interface Entry {
  readonly room: Room;
  readonly members: Set<Member>;
}

/** The rooms of one stream that have members on this worker. */
export class RoomMembers {
  /** The room of the stream's user, which has all events. */
  private user: Entry | undefined;
  private readonly jobs = new Map<string, Entry>();
  private readonly tasks = new Map<string, Entry>();
  /** Number of the last event that was offered. */
  private delivery = 0;

  join(room: Room, member: Member): void {
    if (room.kind === 'user') {
      this.user ??= { room, members: new Set() };
      this.user.members.add(member);
      return;
    }
    const map = room.kind === 'job' ? this.jobs : this.tasks;
    let entry = map.get(room.id);
    if (entry === undefined) {
      entry = { room, members: new Set() };
      map.set(room.id, entry);
    }
    entry.members.add(member);
  }

  /** Leaves a room. One that nobody is in is forgotten. */
  leave(room: Room, member: Member): void {
    if (room.kind === 'user') {
      this.user?.members.delete(member);
      if (this.user?.members.size === 0) {
        this.user = undefined;
      }
      return;
    }
    const map = room.kind === 'job' ? this.jobs : this.tasks;
    const entry = map.get(room.id);
    entry?.members.delete(member);
    if (entry?.members.size === 0) {
      map.delete(room.id);
    }
  }

  /** Offers an event to everybody in its rooms. @returns to how many it was sent */
  offer(event: HubEvent): number {
    this.delivery += 1;
    let sent = 0;
    for (const entry of [this.user, this.jobs.get(event.jobId), this.tasks.get(event.taskId)]) {
      if (entry === undefined) {
        continue;
      }
      for (const member of entry.members) {
        if (member.offer(event, this.delivery)) {
          sent += 1;
        }
      }
    }
    return sent;
  }

  /** The rooms that somebody is in, and how many. */
  *counts(): Iterable<readonly [name: string, members: number]> {
    const user = this.user === undefined ? [] : [this.user];
    for (const entries of [user, this.jobs.values(), this.tasks.values()]) {
      for (const { room, members } of entries) {
        yield [room.name, members.size];
      }
    }
  }
}
