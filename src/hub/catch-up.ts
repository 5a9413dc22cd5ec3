import { TaskwireError, toTaskwireError } from '../protocol/errors.js';
import type { Position } from '../protocol/messages.js';
import type { Room } from '../protocol/rooms.js';
import type { RoomCursor } from '../repository/log.js';
import type { LogReader } from './log-reader.js';
import { belongs, type Join, type Membership, type Place } from './membership.js';
import type { EventPage, HubEvent } from './message.js';

/** What a catch-up asks of its surroundings. */
export interface CatchUpPorts {
  readonly log: Pick<LogReader, 'page' | 'state' | 'snapshot'>;
  /** Resolves when the connection can take another page. */
  drained(membership: Membership): Promise<void>;
}

/** A room on its way in: everything up to `after` has been sent or is in the snapshot. */
interface Entry {
  readonly room: Room;
  after: number;
  /** Position from which this connection is served the room's events. */
  from: number;
  recovered: boolean;
  replayed: number;
}

/**
 * Brings joins of one connection in one stream up to date and lets them go live with no gap and no copy.
 *
 * The membership is held meanwhile: live events of rooms that it joined before pass by and are sent from here, so that
 * what the connection gets of this stream stays in order. The last step is synchronous: what is missing stands in the
 * ring, is sent, the rooms are joined and the replies given, all in one turn, so no event falls between.
 *
 * @returns the error that the joins were refused with, if they were
 */
export async function catchUp(
  membership: Membership,
  joins: readonly Join[],
  ports: CatchUpPorts,
): Promise<TaskwireError | undefined> {
  try {
    await membership.stream.ready;
  } catch (error) {
    return refuse(membership, joins, error);
  }
  membership.held = true;
  const work = new CatchUp(membership, joins, ports);
  try {
    await work.run();
    return undefined;
  } catch (error) {
    work.abandon();
    return refuse(membership, joins, error);
  }
}

function refuse(membership: Membership, joins: readonly Join[], error: unknown): TaskwireError {
  const refusal = toTaskwireError(error);
  if (!membership.closed) {
    for (const join of joins) {
      join.reply(refusal);
    }
  }
  return refusal;
}

class CatchUp {
  /** Rooms that are asked for, some of them perhaps again. */
  private readonly asked: ReadonlySet<string>;
  /** The joined rooms have been served up to here. */
  private served: number;
  /** And had been when the catch-up began: events up to here went out live. */
  private readonly servedBefore: number;
  /** One for each of `joins`, in their order. */
  private entries: Entry[] = [];

  constructor(
    private readonly membership: Membership,
    private readonly joins: readonly Join[],
    private readonly ports: CatchUpPorts,
  ) {
    this.asked = new Set(joins.map((join) => join.request.room.name));
    this.served = this.servedBefore = membership.position;
  }

  async run(): Promise<void> {
    const { membership } = this;
    const { stream } = membership;
    for (const join of this.joins) {
      await this.enter(join);
      if (membership.closed) {
        return;
      }
    }
    for (;;) {
      // What goes live behind a snapshot that is still on its way would look like a connection that does not read.
      await this.ports.drained(membership);
      if (membership.closed) {
        return;
      }
      const needed = this.lowest();
      const goal = this.highest();
      if (needed >= goal || (goal === stream.last && stream.ring.covers(needed, goal))) {
        this.goLive();
        this.answer();
        return;
      }
      const page = await this.ports.log.page(stream.userId, this.cursors());
      if (membership.closed) {
        return;
      }
      await this.take(page);
      if (membership.closed) {
        return;
      }
    }
  }

  /** The joins failed: the rooms of before are served again, from where they were left. */
  abandon(): void {
    const { membership } = this;
    const { stream } = membership;
    this.entries = this.askedAgain();
    if (membership.closed || membership.places.length === 0) {
      membership.held = false;
    } else if (stream.ring.covers(this.lowest(), stream.last)) {
      this.goLive();
    } else {
      membership.connection.close('STREAM_RESET');
    }
  }

  /** Rooms that the connection is in although they were asked for: what it has got of them meanwhile stays got. */
  private askedAgain(): Entry[] {
    const { servedBefore } = this;
    return this.membership.places.filter(this.isAsked).map(({ entry: { room }, from }) => {
      const entry = this.entries.find((tried) => tried.room.name === room.name);
      return {
        room,
        after: Math.max(servedBefore, entry?.after ?? 0),
        from: entry !== undefined && entry.from > servedBefore ? entry.from : from,
        recovered: false,
        replayed: 0,
      };
    });
  }

  private readonly isAsked = ({ entry }: Place): boolean => this.asked.has(entry.room.name);

  /** The rooms of before that go on. One may be left at any time. */
  private joined(): Place[] {
    return this.membership.places.filter((place) => !this.isAsked(place));
  }

  /** Decides where a room starts: at `since`, at a snapshot, or here. */
  private async enter(join: Join): Promise<void> {
    const { room, since, epoch, snapshot } = join.request;
    const { stream } = this.membership;
    const entry: Entry = { room, after: 0, from: 0, recovered: false, replayed: 0 };
    this.entries.push(entry);
    if (since !== undefined && (epoch === undefined || epoch === stream.epoch)) {
      const here = since <= stream.last && stream.ring.covers(since, stream.last);
      if (here || (await this.logReaches(since))) {
        entry.after = entry.from = since;
        entry.recovered = true;
        return;
      }
    }
    // Rooms other than jobs have no snapshot unless it is asked for or replaces what could not be replayed.
    if (snapshot ?? (room.kind === 'job' || since !== undefined)) {
      await this.sendSnapshot(entry);
    } else {
      // What passed by since the catch-up began is sent: a room that is asked for again has no hole.
      entry.after = entry.from = this.servedBefore;
    }
  }

  private async logReaches(since: number): Promise<boolean> {
    const { stream } = this.membership;
    let state = await this.ports.log.state(stream.userId);
    if (since > state.seq) {
      // Equal reads are shared: that one may have begun before the event that the client has seen was committed.
      state = await this.ports.log.state(stream.userId);
    }
    this.checkEpoch(state);
    return since >= state.floor && since <= state.seq;
  }

  /** Another epoch means another database: the stream is reset and everybody subscribes again. */
  private checkEpoch(head: Position): void {
    const { stream } = this.membership;
    if (head.epoch !== stream.epoch) {
      stream.observeHead(head, stream.last);
      throw new TaskwireError('STREAM_RESET');
    }
  }

  /** Sends a snapshot that is not older than anything the connection has got: a frontend replaces its list with it. */
  private async sendSnapshot(entry: Entry): Promise<void> {
    await this.ports.drained(this.membership);
    const known = this.highest();
    let snapshot = await this.ports.log.snapshot(entry.room);
    if (snapshot.seq < known && snapshot.epoch === this.membership.stream.epoch) {
      // Equal reads are shared: that one had begun before this was known.
      snapshot = await this.ports.log.snapshot(entry.room);
    }
    if (this.membership.closed) {
      return;
    }
    this.checkEpoch(snapshot);
    if (snapshot.seq < known) {
      this.membership.stream.observeHead(snapshot, known);
      throw new TaskwireError('STREAM_RESET');
    }
    this.membership.connection.deliver(snapshot.message);
    entry.after = entry.from = snapshot.seq;
    entry.recovered = false;
    entry.replayed = 0;
  }

  private lowest(): number {
    let lowest = this.joined().length > 0 ? this.served : Number.POSITIVE_INFINITY;
    for (const entry of this.entries) {
      lowest = Math.min(lowest, entry.after);
    }
    return lowest;
  }

  /** The position up to which the log is known here. */
  private highest(): number {
    return this.entries.reduce((highest, { after }) => Math.max(highest, after), this.membership.position);
  }

  private cursors(): RoomCursor[] {
    return [
      ...this.joined().map(({ entry: { room } }) => ({ kind: room.kind, id: room.id, after: this.served })),
      ...this.entries.map(({ room, after }) => ({ kind: room.kind, id: room.id, after })),
    ];
  }

  private async take(page: EventPage): Promise<void> {
    this.checkEpoch(page);
    // The log was trimmed while it was being read: what cannot be completed is replaced by a snapshot.
    if (this.joined().length > 0 && page.floor > this.served) {
      throw new TaskwireError('STREAM_RESET');
    }
    const lost = this.entries.filter((entry) => entry.after < page.floor);
    for (const entry of lost) {
      await this.sendSnapshot(entry);
    }
    if (this.membership.closed || lost.length > 0) {
      return;
    }
    for (const event of page.events) {
      this.send(event);
    }
    const reached = page.complete ? page.seq : (page.events.at(-1)?.seq ?? 0);
    this.reach(reached);
  }

  private reach(seq: number): void {
    this.served = Math.max(this.served, seq);
    for (const entry of this.entries) {
      entry.after = Math.max(entry.after, seq);
    }
  }

  /** Sends an event unless none of the rooms wants it or the connection has had it. */
  private send(event: HubEvent): void {
    const { seq } = event;
    let wanted = false;
    for (const place of this.membership.places) {
      if (belongs(event, place.entry.room) && !this.isAsked(place)) {
        if (seq > place.from && seq <= this.servedBefore) {
          return;
        }
        wanted ||= seq > this.served;
      }
    }
    for (const entry of this.entries) {
      if (seq > entry.after && belongs(event, entry.room)) {
        wanted = true;
        entry.replayed += 1;
      }
    }
    if (wanted) {
      this.membership.connection.deliver(event);
    }
  }

  private goLive(): void {
    const { membership, entries } = this;
    const { stream } = membership;
    for (const event of stream.ring.after(this.lowest(), stream.last)) {
      this.send(event);
    }
    this.reach(stream.last);
    membership.after = this.lowest();
    membership.told = membership.after;
    for (const entry of entries) {
      membership.enter(entry.room, entry.from);
    }
    membership.held = false;
  }

  private answer(): void {
    const { after, stream } = this.membership;
    for (const [index, join] of this.joins.entries()) {
      const { room, recovered, replayed } = this.entries[index]!;
      join.reply({ room: room.name, seq: after, epoch: stream.epoch, recovered, replayed });
    }
  }
}
