import type { Room } from '../protocol/rooms.js';
import type { Connection } from './connection.js';
import type { Line } from './line.js';
import type { HubEvent } from './message.js';
import type { Member } from './room-members.js';
import type { Stream } from './stream.js';
import type { Subscription } from './subscription.js';

const NONE: ReadonlySet<string> = new Set();

/**
 * One connection in one stream, in any number of its rooms.
 *
 * Invariant: it has been sent every event of its live rooms up to `position`, and none above. Normally the stream sends
 * events and raises the position. While a catch-up holds it, live events are skipped here, and the catch-up sends them.
 */
export class Membership implements Member {
  /** Rooms that it is in. Replaced, never pushed to: an array that grows by `push` keeps memory for seventeen items. */
  private live: readonly Subscription[] = [];
  /** Subscriptions that no catch-up has begun with yet. */
  private asked: Subscription[] = [];
  /** While held: its position. Otherwise it may be above the stream's position, when a replay has read further. */
  private after = 0;
  private held = false;
  private entering = NONE;
  private catchingUp = false;
  private ended = false;
  /** Number of the delivery that reached it last. */
  private delivery = 0;
  /** Highest position that the client was told outside of events. */
  private told = 0;
  readonly connection: Connection;

  constructor(
    readonly line: Line,
    readonly stream: Stream,
  ) {
    this.connection = line.connection;
    stream.add(this);
  }

  /** The rooms that it is in. */
  get rooms(): readonly Subscription[] {
    return this.live;
  }

  /** The API key in whose turn it waits. */
  get keyId(): string {
    return this.connection.identity.keyId;
  }

  get closed(): boolean {
    return this.ended;
  }

  /** Up to where everything of its live rooms has been sent. */
  get position(): number {
    return this.held ? this.after : Math.max(this.after, this.stream.last);
  }

  /** Nothing is in it and nothing is on its way in. */
  get unused(): boolean {
    return this.live.length === 0 && this.asked.length === 0 && !this.catchingUp;
  }

  /** Takes a live event; the same one comes once for each of its rooms. @returns whether it was sent */
  offer(event: HubEvent, delivery: number): boolean {
    if (this.delivery === delivery) {
      return false;
    }
    this.delivery = delivery;
    if (this.held || event.seq <= this.after) {
      return false;
    }
    this.connection.deliver(event);
    return true;
  }

  /** The log is another one now: the client has to subscribe again. */
  reset(): void {
    this.connection.close('STREAM_RESET');
  }

  ask(subscription: Subscription): void {
    this.asked.push(subscription);
  }

  /** @returns whether no catch-up was under way: the caller runs it */
  beginCatchUp(): boolean {
    const begins = !this.catchingUp;
    this.catchingUp = true;
    return begins;
  }

  endCatchUp(): void {
    this.catchingUp = false;
  }

  /** Hands over all that was asked for and not taken up. */
  takeAsked(): Subscription[] {
    const { asked } = this;
    this.asked = [];
    return asked;
  }

  /**
   * Lets live events pass by until `release`.
   * @param names rooms that are on their way in, some of them perhaps again
   */
  hold(names: ReadonlySet<string>): void {
    this.after = this.position;
    this.held = true;
    this.entering = names;
  }

  /** While held: everything of the live rooms up to `seq` has been sent. */
  reach(seq: number): void {
    this.after = Math.max(this.after, seq);
  }

  /** Joins rooms; a room of the same name is replaced. */
  enter(subscriptions: readonly Subscription[]): void {
    const entering = new Map(subscriptions.map((subscription) => [subscription.room.name, subscription]));
    const others = this.live.filter(({ room }) => !entering.has(room.name));
    for (const { room } of entering.values()) {
      this.stream.rooms.join(room, this);
    }
    this.live = [...others, ...entering.values()];
  }

  /**
   * Takes live events again; everything up to `position` has been sent.
   * @param told whether the client is told the position
   */
  release(position: number, told: boolean): void {
    this.after = position;
    this.told = told ? position : this.told;
    this.held = false;
    this.entering = NONE;
  }

  /** @returns whether it was in the room */
  leave(room: Room): boolean {
    const others = this.live.filter((subscription) => subscription.room.name !== room.name);
    if (others.length === this.live.length) {
      return false;
    }
    this.live = others;
    this.stream.rooms.leave(room, this);
    return true;
  }

  /** Leaves everything. What was asked for gets no answer. */
  end(): void {
    for (const { room } of this.live) {
      this.stream.rooms.leave(room, this);
    }
    this.live = [];
    this.asked = [];
    this.ended = true;
    this.stream.remove(this);
  }

  /** Whether there are positions that the client was not told. */
  get moved(): boolean {
    return this.position > this.told;
  }

  /** Where the connection stands in each of its rooms, except those that it asked for again. The client is told. */
  tell(): ReadonlyArray<{ room: string; seq: number; epoch: string }> {
    this.told = this.position;
    const { epoch } = this.stream;
    return this.live
      .filter(({ room }) => !this.entering.has(room.name))
      .map(({ room }) => ({ room: room.name, seq: this.told, epoch }));
  }
}
