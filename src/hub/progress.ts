import type { RoomCursor } from '../repository/log.js';
import type { Membership } from './membership.js';
import type { HubEvent } from './message.js';
import type { Subscription } from './subscription.js';

/**
 * How far the rooms of one membership have come in a catch-up: those that were asked for, each at a position of its own, and
 * those that it was in before, all at the membership's position. It decides which event is sent. Nothing here waits.
 */
export class Progress {
  private readonly names: ReadonlySet<string>;
  /** Those of the requested rooms whose start is known, in order. */
  private placed: Subscription[] = [];
  /** The membership's position when it was held: events up to here went out live. */
  readonly heldAt: number;

  constructor(
    private readonly membership: Membership,
    asked: readonly Subscription[],
  ) {
    this.names = new Set(asked.map(({ room }) => room.name));
    membership.hold(this.names);
    this.heldAt = membership.position;
  }

  /** A room is on its way in; its place is decided next. */
  add(subscription: Subscription): void {
    this.placed.push(subscription);
  }

  /** Up to where every room is known to be complete. */
  get lowest(): number {
    const { position } = this.membership;
    const before = this.placed.length === 0 || this.goingOn().length > 0 ? position : Number.POSITIVE_INFINITY;
    return this.placed.reduce((lowest, { after }) => Math.min(lowest, after), before);
  }

  /** The position up to which the log is known here. */
  get highest(): number {
    const { membership } = this;
    const known = Math.max(membership.position, membership.stream.last);
    return this.placed.reduce((highest, { after }) => Math.max(highest, after), known);
  }

  /** Whether all that is missing stands in the stream's ring. */
  get near(): boolean {
    const { last, ring } = this.membership.stream;
    const { lowest, highest } = this;
    return lowest >= highest || (highest === last && ring.covers(lowest, highest));
  }

  cursors(): RoomCursor[] {
    const cursor = ({ room }: Subscription, after: number): RoomCursor => ({ kind: room.kind, id: room.id, after });
    return [
      ...this.goingOn().map((subscription) => cursor(subscription, this.membership.position)),
      ...this.placed.map((subscription) => cursor(subscription, subscription.after)),
    ];
  }

  /**
   * Rooms of which the log has lost something, so that they need a snapshot.
   * @param floor events up to here are no longer in the log
   * @returns undefined when a room of before has lost something: it cannot be given a snapshot, as nobody asked for one
   */
  lost(floor: number): readonly Subscription[] | undefined {
    return this.goingOn().length > 0 && floor > this.membership.position
      ? undefined
      : this.placed.filter(({ after }) => after < floor);
  }

  /** Sends an event when one of the rooms needs it and the connection has not had it yet. */
  send(event: HubEvent): void {
    const { membership } = this;
    const { seq } = event;
    let wanted = false;
    for (const subscription of membership.rooms) {
      if (subscription.holds(event) && !this.isAsked(subscription)) {
        if (seq > subscription.from && seq <= this.heldAt) {
          return;
        }
        wanted ||= seq > membership.position;
      }
    }
    for (const subscription of this.placed) {
      if (seq > subscription.after && subscription.needs(event)) {
        wanted = true;
        subscription.replayed += 1;
      }
    }
    if (wanted) {
      membership.line.deliver(event);
    }
  }

  /** Everything of the rooms up to `seq` has been sent. */
  reach(seq: number): void {
    this.membership.reach(seq);
    for (const subscription of this.placed) {
      subscription.reach(seq);
    }
  }

  /** Sends what the ring has up to a position, as far as it was not sent. Only where the ring covers the lowest one. */
  sendFromRing(goal: number): void {
    const { ring, last } = this.membership.stream;
    for (const event of ring.after(this.lowest, last)) {
      if (event.seq <= goal) {
        this.send(event);
      }
    }
    this.reach(Math.min(goal, last));
  }

  /** Sends what is missing, all of which is near, and joins the rooms: all in this turn of the event loop. */
  goLive(): void {
    const { membership } = this;
    this.sendFromRing(membership.stream.last);
    membership.enter(this.placed);
    membership.release(this.lowest, this.placed.length > 0);
  }

  /** The catch-up failed: the rooms of before are served again, from where they were left. */
  abandon(): void {
    const { membership } = this;
    const { stream } = membership;
    this.placed = this.askedAgain();
    if (membership.closed) {
      return;
    }
    if (membership.rooms.length === 0) {
      membership.release(membership.position, false);
    } else if (stream.ring.covers(this.lowest, stream.last)) {
      this.goLive();
    } else {
      membership.reset();
    }
  }

  /** Live rooms that were asked for again. After a failure they go on from what was sent of them meanwhile. */
  private askedAgain(): Subscription[] {
    const { heldAt } = this;
    return this.membership.rooms.filter(this.isAsked).map((before) => {
      const again = this.placed.find(({ room }) => room.name === before.room.name);
      before.reach(heldAt);
      if (again?.whole) {
        before.reach(again.after);
        if (again.from > heldAt) {
          before.from = again.from;
        }
      }
      return before;
    });
  }

  private readonly isAsked = ({ room }: Subscription): boolean => this.names.has(room.name);

  /** The rooms of before that go on. One may be left at any time. */
  private goingOn(): Subscription[] {
    return this.membership.rooms.filter((subscription) => !this.isAsked(subscription));
  }
}
