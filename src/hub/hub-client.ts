import { controlText, type Position } from '../protocol/messages.js';
import type { Room } from '../protocol/rooms.js';
import type { RoomOwner } from '../repository/log.js';
import { type CatchUpPorts, catchUp } from './catch-up.js';
import type { Connection } from './connection.js';
import { Line, type LineEnd, type LineOptions } from './line.js';
import { Membership } from './membership.js';
import type { Stream } from './stream.js';
import type { Subscription } from './subscription.js';

/** What a client asks of its hub. */
export interface ClientPorts extends CatchUpPorts {
  readonly line: LineOptions;
  follow(owner: RoomOwner): Stream;
  forget(client: HubClient): void;
}

/** One connection in the hub: its memberships, at most one a stream. */
export class HubClient implements LineEnd {
  private memberships: readonly Membership[] = [];
  private toldAt: number;
  private readonly line: Line;
  private closed = false;

  constructor(
    private readonly connection: Connection,
    private readonly ports: ClientPorts,
  ) {
    this.line = new Line(connection, ports.line, this);
    this.toldAt = ports.line.clock.now();
  }

  /** Rooms that the connection is in. */
  get roomCount(): number {
    return this.memberships.reduce((sum, { rooms }) => sum + rooms.length, 0);
  }

  /** Whether the connection is in a room. */
  has({ name }: Room): boolean {
    return this.memberships.some(({ rooms }) => rooms.some(({ room }) => room.name === name));
  }

  /** The rooms that the connection is in. */
  get rooms(): Room[] {
    return this.memberships.flatMap(({ rooms }) => rooms.map(({ room }) => room));
  }

  /** Joins a room of `owner`'s stream. The subscription is answered when that is done or has failed. */
  subscribe(owner: RoomOwner, subscription: Subscription): void {
    if (this.closed) {
      return;
    }
    const membership = this.membershipOf(owner);
    for (const other of this.memberships) {
      // The room was another user's when it was joined, and nothing comes there any more.
      if (other !== membership && other.leave(subscription.room)) {
        this.drop(other);
      }
    }
    membership.ask(subscription);
    void catchUp(membership, this.ports).then(() => this.drop(membership));
  }

  /** The membership in a user's stream; a new one where there is none. */
  private membershipOf(owner: RoomOwner): Membership {
    const known = this.memberships.find(({ stream, closed }) => stream.userId === owner.userId && !closed);
    if (known !== undefined) {
      return known;
    }
    const membership = new Membership(this.line, this.ports.follow(owner));
    this.memberships = [...this.memberships, membership];
    return membership;
  }

  /** Leaves a room; no event of it is delivered afterwards. */
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
    this.toldAt = this.ports.line.clock.now();
    return this.memberships.flatMap((membership) => membership.tell());
  }

  /**
   * Tells a client its positions now and then. In a quiet room its own one would become older than the log.
   * @param now by the hub's clock
   * @param interval milliseconds after which a client is told again
   */
  tellPositions(now: number, interval: number): void {
    if (now - this.toldAt < interval) {
      return;
    }
    this.toldAt = now;
    if (this.memberships.some(({ moved }) => moved)) {
      const payload = Buffer.from(controlText('POSITION', { positions: this.positions() }));
      this.connection.deliver({ type: 'POSITION', payload });
    }
  }

  /** The client does not keep up: nothing more of its rooms is sent until it has taken what waits, and then all of it. */
  fallBehind(): void {
    for (const membership of this.memberships) {
      if (membership.rooms.length > 0) {
        void catchUp(membership, this.ports, true).then(() => this.drop(membership));
      }
    }
  }

  /** The client reads nothing: its connection is closed. */
  stall(): void {
    this.connection.close('SLOW_CONSUMER');
    this.close();
  }

  close(): void {
    this.closed = true;
    this.line.close();
    for (const membership of this.memberships) {
      membership.end();
    }
    this.memberships = [];
    this.ports.forget(this);
  }

  /** Forgets a membership without rooms. */
  private drop(membership: Membership): void {
    if (membership.unused && !membership.closed) {
      membership.end();
      this.memberships = this.memberships.filter((other) => other !== membership);
    }
  }
}
