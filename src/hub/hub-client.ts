import { controlText, type Position } from '../protocol/messages.js';
import type { Room } from '../protocol/rooms.js';
import type { Connection } from './connection.js';
import { type Join, Membership } from './membership.js';
import type { Stream } from './stream.js';

/** What a client asks of its hub. */
export interface ClientPorts {
  join(membership: Membership): Promise<void>;
  follow(userId: string): Stream;
  forget(client: HubClient): void;
}

/** One connection in the hub: its memberships, at most one a stream. */
export class HubClient {
  private memberships: readonly Membership[] = [];
  private toldAt = Date.now();
  private closed = false;

  constructor(
    private readonly connection: Connection,
    private readonly ports: ClientPorts,
  ) {}

  /** Rooms that the connection has joined. */
  get roomCount(): number {
    return this.memberships.reduce((sum, { places }) => sum + places.length, 0);
  }

  /** Whether the connection has joined a room. */
  has(room: Room): boolean {
    return this.memberships.some(({ places }) => places.some(({ entry }) => entry.room.name === room.name));
  }

  /** Joins a room of `owner`'s stream; the join's reply is called when that is done or has failed. */
  join(owner: string, join: Join): void {
    if (this.closed) {
      return;
    }
    let membership = this.memberships.find(({ stream }) => stream.userId === owner);
    if (membership === undefined || membership.closed) {
      membership = new Membership(this.connection, this.ports.follow(owner));
      membership.stream.members.add(membership);
      this.memberships = [...this.memberships, membership];
    }
    membership.joins.push(join);
    const joining = membership;
    void this.ports.join(joining).then(() => this.drop(joining));
  }

  /** Leaves a room that was joined; no event of it is delivered afterwards. */
  leave(room: Room): boolean {
    for (const membership of this.memberships) {
      if (membership.leave(room)) {
        this.drop(membership);
        return true;
      }
    }
    return false;
  }

  /** Where the connection stands in each of its rooms. */
  positions(): Array<{ room: string } & Position> {
    const positions: Array<{ room: string } & Position> = [];
    for (const membership of this.memberships) {
      if (!membership.held) {
        membership.told = membership.position;
        for (const { entry } of membership.places) {
          positions.push({ room: entry.room.name, seq: membership.told, epoch: membership.stream.epoch });
        }
      }
    }
    this.toldAt = Date.now();
    return positions;
  }

  /** Brings the positions of a client that does not ask forward, so that quiet rooms do not fall out of the log. */
  tellPositions(now: number, interval: number): void {
    if (now - this.toldAt < interval) {
      return;
    }
    const moved = this.memberships.some((membership) => !membership.held && membership.position > membership.told);
    this.toldAt = now;
    if (moved) {
      const payload = Buffer.from(controlText('POSITION', { positions: this.positions() }));
      this.connection.deliver({ type: 'POSITION', payload });
    }
  }

  close(): void {
    this.closed = true;
    for (const membership of this.memberships) {
      membership.leaveAll();
      membership.stream.members.delete(membership);
    }
    this.memberships = [];
    this.ports.forget(this);
  }

  /** Forgets a membership without rooms. */
  private drop(membership: Membership): void {
    if (membership.places.length === 0 && membership.joins.length === 0 && !membership.catchingUp) {
      membership.closed = true;
      membership.stream.members.delete(membership);
      this.memberships = this.memberships.filter((other) => other !== membership);
    }
  }
}
