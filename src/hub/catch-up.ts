import { TaskwireError, toTaskwireError } from '../protocol/errors.js';
import type { Position } from '../protocol/messages.js';
import type { RoomCursor } from '../repository/log.js';
import type { LogReader } from './log-reader.js';
import type { Membership } from './membership.js';
import type { EventPage, HubEvent } from './message.js';
import type { Subscription } from './subscription.js';

/*
 * How a SUBSCRIBE is answered.
 *
 * A catch-up works for one connection in one stream (a Membership). It brings the rooms that were asked for up to date
 * and lets them go live with no gap and no copy. `test/unit/hub-model.test.ts` holds it against a reference.
 *
 * A subscription goes through these states:
 *
 *   asked    It waits in the membership. What is asked for in one turn of the event loop, or while a catch-up is under
 *            way, is caught up together, so that an event of several of the rooms is sent once and in order.
 *   placed   It is known where the room starts, and `after` is set (`place`):
 *              at `since`, when the epoch is the stream's and the log still reaches back to it;
 *              else at a snapshot, which is sent at once, for a job's room or when `since` could not be served;
 *              else where the membership stood when the catch-up began.
 *   behind   Events after `after` are missing. They are sent page by page, by rising `seq`, for all rooms of the
 *            membership at once (`sendPage`). `after` rises with each page. When the log no longer has the next event,
 *            the room gets a snapshot and is placed anew.
 *   live     What is missing stands in the stream's ring. In one turn of the event loop it is sent, the rooms are
 *            joined and the answers are given (`goLive`, `answer`), so no event falls between.
 *   refused  Something failed: the log could not be read, or it is another one now (STREAM_RESET). The client is told.
 *
 * The rooms that the connection was in before are held from `hold` to `release`: live events pass them by and are sent
 * from here, in order with the others. They go on whether the catch-up succeeds or is refused (`abandon`). A room that
 * is asked for again while it is live is one of those asked for, and goes on as before when it is refused.
 */

/** What a catch-up asks of its surroundings. */
export interface CatchUpPorts {
  readonly log: Pick<LogReader, 'page' | 'state' | 'snapshot'>;
  /** Resolves when the connection can take another page. */
  drained(membership: Membership): Promise<void>;
  /** Told of a refusal that is nobody's fault but ours. */
  onError(membership: Membership, error: TaskwireError): void;
}

/** Serves everything that was asked of a membership, and what is asked meanwhile. One call works, others return at once. */
export async function catchUp(membership: Membership, ports: CatchUpPorts): Promise<void> {
  if (!membership.beginCatchUp()) {
    return;
  }
  // What is asked for in one turn belongs together.
  await Promise.resolve();
  for (;;) {
    const asked = membership.takeAsked();
    if (asked.length === 0) {
      break;
    }
    await serve(membership, asked, ports);
  }
  membership.endCatchUp();
}

async function serve(membership: Membership, asked: readonly Subscription[], ports: CatchUpPorts): Promise<void> {
  let work: CatchUp | undefined;
  try {
    await membership.stream.ready;
    work = new CatchUp(membership, asked, ports);
    await work.run();
  } catch (error) {
    work?.abandon();
    const refusal = toTaskwireError(error);
    if (!membership.closed) {
      for (const subscription of asked) {
        subscription.answer(refusal);
      }
    }
    if (refusal.code === 'INTERNAL_ERROR') {
      ports.onError(membership, refusal);
    }
  }
}

class CatchUp {
  private readonly names: ReadonlySet<string>;
  /** Those of `asked` that have their place, in order. */
  private placed: Subscription[] = [];
  /** The membership's position when it was held: events up to here went out live. */
  private readonly heldAt: number;

  constructor(
    private readonly membership: Membership,
    private readonly asked: readonly Subscription[],
    private readonly ports: CatchUpPorts,
  ) {
    this.names = new Set(asked.map(({ room }) => room.name));
    membership.hold(this.names);
    this.heldAt = membership.position;
  }

  async run(): Promise<void> {
    const { membership, ports } = this;
    for (const subscription of this.asked) {
      this.placed.push(subscription);
      await this.place(subscription);
      if (membership.closed) {
        return;
      }
    }
    for (;;) {
      // What goes live behind a snapshot that is still on its way would look like a connection that does not read.
      await ports.drained(membership);
      if (membership.closed) {
        return;
      }
      if (this.nothingIsFar()) {
        this.goLive();
        this.answer();
        return;
      }
      const page = await ports.log.page(membership.keyId, membership.stream.userId, this.cursors());
      if (membership.closed) {
        return;
      }
      await this.sendPage(page);
      if (membership.closed) {
        return;
      }
    }
  }

  /** Decides where a room starts. */
  private async place(subscription: Subscription): Promise<void> {
    const { since, epoch, snapshot } = subscription.asked;
    const { stream } = this.membership;
    if (since !== undefined && (epoch === undefined || epoch === stream.epoch)) {
      const near = since <= stream.last && stream.ring.covers(since, stream.last);
      if (near || (await this.logReaches(since))) {
        subscription.startAt(since, true);
        return;
      }
    }
    // Rooms other than jobs have no snapshot unless it is asked for or replaces what could not be replayed.
    if (snapshot ?? (subscription.room.kind === 'job' || since !== undefined)) {
      await this.sendSnapshot(subscription);
    } else {
      // What passed by since the catch-up began is sent: a room that is asked for again has no hole.
      subscription.startAt(this.heldAt, false);
    }
  }

  private async logReaches(since: number): Promise<boolean> {
    const { keyId, stream } = this.membership;
    let state = await this.ports.log.state(keyId, stream.userId);
    if (since > state.seq) {
      // Equal reads are shared: that one may have begun before the event that the client has seen was committed.
      state = await this.ports.log.state(keyId, stream.userId);
    }
    this.checkEpoch(state);
    return since >= state.floor && since <= state.seq;
  }

  /** Sends a snapshot that is not older than anything the connection has got: a frontend replaces its list with it. */
  private async sendSnapshot(subscription: Subscription): Promise<void> {
    const { membership, ports } = this;
    await ports.drained(membership);
    const known = this.highest();
    let snapshot = await ports.log.snapshot(membership.keyId, subscription.room);
    if (snapshot.seq < known && snapshot.epoch === membership.stream.epoch) {
      // Equal reads are shared: that one had begun before this was known.
      snapshot = await ports.log.snapshot(membership.keyId, subscription.room);
    }
    if (membership.closed) {
      return;
    }
    this.checkEpoch(snapshot);
    if (snapshot.seq < known) {
      membership.stream.observeHead(snapshot, known);
      throw new TaskwireError('STREAM_RESET');
    }
    membership.connection.deliver(snapshot.message);
    subscription.startAt(snapshot.seq, false);
  }

  private async sendPage(page: EventPage): Promise<void> {
    this.checkEpoch(page);
    // The log was trimmed while it was being read: what cannot be completed is replaced by a snapshot.
    if (this.goingOn().length > 0 && page.floor > this.membership.position) {
      throw new TaskwireError('STREAM_RESET');
    }
    const lost = this.placed.filter(({ after }) => after < page.floor);
    for (const subscription of lost) {
      await this.sendSnapshot(subscription);
    }
    if (this.membership.closed || lost.length > 0) {
      return;
    }
    for (const event of page.events) {
      this.send(event);
    }
    this.reach(page.complete ? page.seq : (page.events.at(-1)?.seq ?? 0));
  }

  /** Whether all that is missing stands in the ring. */
  private nothingIsFar(): boolean {
    const { last, ring } = this.membership.stream;
    const [lowest, highest] = [this.lowest(), this.highest()];
    return lowest >= highest || (highest === last && ring.covers(lowest, highest));
  }

  private goLive(): void {
    const { membership, placed } = this;
    const { stream } = membership;
    for (const event of stream.ring.after(this.lowest(), stream.last)) {
      this.send(event);
    }
    this.reach(stream.last);
    membership.enter(placed);
    membership.release(this.lowest());
  }

  private answer(): void {
    const { position, stream } = this.membership;
    for (const subscription of this.asked) {
      const { room, recovered, replayed } = subscription;
      subscription.answer({ room: room.name, seq: position, epoch: stream.epoch, recovered, replayed });
    }
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
      membership.release(membership.position);
    } else if (stream.ring.covers(this.lowest(), stream.last)) {
      this.goLive();
    } else {
      membership.connection.close('STREAM_RESET');
    }
  }

  /** Rooms that the connection is in although they were asked for: what it has got of them meanwhile stays got. */
  private askedAgain(): Subscription[] {
    const { heldAt } = this;
    return this.membership.rooms.filter(this.isAsked).map((before) => {
      const again = this.placed.find(({ room }) => room.name === before.room.name);
      before.reach(Math.max(heldAt, again?.after ?? 0));
      if (again !== undefined && again.from > heldAt) {
        before.from = again.from;
      }
      return before;
    });
  }

  private readonly isAsked = ({ room }: Subscription): boolean => this.names.has(room.name);

  /** The rooms of before that go on. One may be left at any time. */
  private goingOn(): Subscription[] {
    return this.membership.rooms.filter((subscription) => !this.isAsked(subscription));
  }

  /** Sends an event unless none of the rooms wants it or the connection has had it. */
  private send(event: HubEvent): void {
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
      if (seq > subscription.after && subscription.holds(event)) {
        wanted = true;
        subscription.replayed += 1;
      }
    }
    if (wanted) {
      membership.connection.deliver(event);
    }
  }

  private reach(seq: number): void {
    this.membership.reach(seq);
    for (const subscription of this.placed) {
      subscription.reach(seq);
    }
  }

  /** Up to where every room is known to be complete. */
  private lowest(): number {
    const before = this.goingOn().length > 0 ? this.membership.position : Number.POSITIVE_INFINITY;
    return this.placed.reduce((lowest, { after }) => Math.min(lowest, after), before);
  }

  /** The position up to which the log is known here. */
  private highest(): number {
    const { membership } = this;
    const known = Math.max(membership.position, membership.stream.last);
    return this.placed.reduce((highest, { after }) => Math.max(highest, after), known);
  }

  private cursors(): RoomCursor[] {
    const cursor = ({ room }: Subscription, after: number): RoomCursor => ({ kind: room.kind, id: room.id, after });
    return [
      ...this.goingOn().map((subscription) => cursor(subscription, this.membership.position)),
      ...this.placed.map((subscription) => cursor(subscription, subscription.after)),
    ];
  }

  /** Another epoch means another database: the stream is reset and everybody subscribes again. */
  private checkEpoch(head: Position): void {
    const { stream } = this.membership;
    if (head.epoch !== stream.epoch) {
      stream.observeHead(head, stream.last);
      throw new TaskwireError('STREAM_RESET');
    }
  }
}
