import type { Position } from '../protocol/messages.js';
import type { Room } from '../protocol/rooms.js';
import { decodeStreamMessage } from '../protocol/stream-message.js';
import type { Connection } from './connection.js';
import type { EventPage, HubEvent } from './message.js';
import { Ring, type RingBudget } from './ring.js';

/** Who is given a stream's events, as the stream sees it. */
export interface Member {
  readonly connection: Connection;
  /** Live events pass it by. */
  readonly held: boolean;
  /** It has been sent everything up to here. */
  readonly after: number;
  /** Number of the delivery that reached it last: one that sits in several rooms of an event gets it once. */
  stamp: number;
}

/** A room with members on this worker. */
export class RoomEntry {
  readonly members = new Set<Member>();

  constructor(readonly room: Room) {}
}

/** What a stream asks of its surroundings. */
export interface StreamPorts {
  /** Events of the whole stream after a position, from the log. */
  read(userId: string, after: number): Promise<EventPage>;
  /** What the members have seen is not a beginning of the log any more; they have to subscribe again. */
  onReset(members: ReadonlySet<Member>): void;
  /** The log could not be read; the next reconcile tries again. */
  onRepairFailed(userId: string, error: unknown): void;
  readonly counters: StreamCounters;
}

export interface StreamCounters {
  events: number;
  deliveries: number;
  /** Messages that had been delivered before. */
  duplicates: number;
  /** Gaps that the broker did not close by itself. */
  repairs: number;
  resets: number;
}

/** Messages ahead of a gap that are kept; the log has them all, so one more is simply not kept. */
const MAX_EARLY = 1_000;

/** How long a gap may close by itself: publishers of one stream race each other by about a round trip. */
const GAP_PATIENCE_MS = 10;

/**
 * The events of one user, in order, on their way to the members of its rooms on this worker.
 *
 * Invariant: members have been given exactly the events up to `last`, each once. A message with `seq` last+1 is
 * delivered, a lower one dropped, a higher one proves a gap, which is closed by the messages that are late or by the log.
 */
export class Stream {
  last = 0;
  epoch = '';
  /** Every membership, in a room or on its way into one. */
  readonly members = new Set<Member>();
  readonly ring: Ring;
  /** Resolves when the stream is in order, rejects when it could not be started. */
  ready: Promise<void> = Promise.resolve();
  /** Since when nobody is interested. */
  idleSince: number | undefined;

  private started = false;
  private readonly early = new Map<number, HubEvent>();
  /** Highest `seq` that is known to exist. */
  private highest = 0;
  private patience: NodeJS.Timeout | undefined;
  private repairing = false;
  private stopped = false;
  private deliveryNumber = 0;

  private everything: RoomEntry | undefined;
  private readonly jobs = new Map<string, RoomEntry>();
  private readonly tasks = new Map<string, RoomEntry>();

  constructor(
    readonly userId: string,
    private readonly ports: StreamPorts,
    limits: { readonly ringEvents: number; readonly ringBudget: RingBudget },
  ) {
    this.ring = new Ring(limits.ringEvents, limits.ringBudget);
  }

  /** The channel is subscribed and this was the log's head at some moment after that. */
  start(head: Position): void {
    this.started = true;
    this.last = head.seq;
    this.epoch = head.epoch;
    const waiting = [...this.early.values()].filter((event) => event.epoch === head.epoch);
    this.early.clear();
    this.accept(waiting);
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.patience);
    this.early.clear();
    this.ring.clear();
  }

  /** Everything that one read from the broker brought for this stream. */
  receive(batch: readonly Buffer[]): void {
    const events: HubEvent[] = [];
    for (const bytes of batch) {
      const event = decodeStreamMessage(bytes);
      if (event !== undefined) {
        events.push(event);
      }
    }
    this.accept(events);
  }

  /** Takes note of the log's head as it was read some time after `lastThen` was this stream's position. */
  observeHead(head: Position, lastThen: number): void {
    if (!this.started) {
      return;
    }
    if (head.epoch !== this.epoch || head.seq < lastThen) {
      this.reset(head);
    } else if (head.seq > this.last) {
      this.highest = Math.max(this.highest, head.seq);
      void this.repair();
    }
  }

  room(room: Room): RoomEntry {
    if (room.kind === 'user') {
      this.everything ??= new RoomEntry(room);
      return this.everything;
    }
    const map = room.kind === 'job' ? this.jobs : this.tasks;
    let entry = map.get(room.id);
    if (entry === undefined) {
      entry = new RoomEntry(room);
      map.set(room.id, entry);
    }
    return entry;
  }

  /** Forgets a room that nobody is in. */
  release(entry: RoomEntry): void {
    if (entry.members.size > 0) {
      return;
    }
    if (entry.room.kind === 'user') {
      this.everything = undefined;
    } else {
      (entry.room.kind === 'job' ? this.jobs : this.tasks).delete(entry.room.id);
    }
  }

  *rooms(): Iterable<RoomEntry> {
    if (this.everything !== undefined) {
      yield this.everything;
    }
    yield* this.jobs.values();
    yield* this.tasks.values();
  }

  private accept(events: readonly HubEvent[]): void {
    for (const event of events) {
      if (!this.started) {
        this.keepEarly(event);
      } else if (event.epoch !== this.epoch) {
        // Another epoch means another database or a restored one; the heads will tell at the next reconcile.
        this.ports.counters.duplicates += 1;
      } else if (event.seq === this.last + 1) {
        this.deliver(event);
        if (this.early.size > 0) {
          this.deliverEarly();
        }
      } else if (event.seq <= this.last) {
        this.ports.counters.duplicates += 1;
      } else {
        this.keepEarly(event);
      }
    }
    if (this.started && this.highest > this.last && !this.repairing && this.patience === undefined) {
      this.patience = setTimeout(() => {
        this.patience = undefined;
        void this.repair();
      }, GAP_PATIENCE_MS);
    }
  }

  private keepEarly(event: HubEvent): void {
    this.highest = Math.max(this.highest, event.seq);
    if (this.early.size < MAX_EARLY) {
      this.early.set(event.seq, event);
    }
  }

  private deliverEarly(): void {
    for (;;) {
      const next = this.early.get(this.last + 1);
      if (next === undefined) {
        break;
      }
      this.early.delete(next.seq);
      this.deliver(next);
    }
    if (this.highest <= this.last) {
      this.early.clear();
    }
  }

  private deliver(event: HubEvent): void {
    this.last = event.seq;
    this.ring.push(event);
    const { counters } = this.ports;
    counters.events += 1;
    this.deliveryNumber += 1;
    const number = this.deliveryNumber;
    let deliveries = 0;
    for (const entry of [this.everything, this.jobs.get(event.jobId), this.tasks.get(event.taskId)]) {
      if (entry === undefined) {
        continue;
      }
      for (const member of entry.members) {
        if (member.stamp !== number) {
          member.stamp = number;
          if (!member.held && event.seq > member.after) {
            member.connection.deliver(event);
            deliveries += 1;
          }
        }
      }
    }
    counters.deliveries += deliveries;
  }

  /** Reads the log from `last` on until nothing that is known to exist is missing. */
  private async repair(): Promise<void> {
    if (this.repairing || this.stopped) {
      return;
    }
    this.repairing = true;
    try {
      while (this.highest > this.last && !this.stopped) {
        const before = this.last;
        const page = await this.ports.read(this.userId, before);
        if (this.stopped) {
          return;
        }
        const [first] = page.events;
        const hole = page.floor > before || (first !== undefined && first.seq !== before + 1);
        if (page.epoch !== this.epoch || page.seq < before || (hole && this.last === before)) {
          this.reset(page);
          return;
        }
        this.ports.counters.repairs += 1;
        this.accept(page.events);
        if (this.last === before && page.complete) {
          // What was said to exist does not: a head of another database.
          this.highest = this.last;
        }
      }
    } catch (error) {
      this.ports.onRepairFailed(this.userId, error);
    } finally {
      this.repairing = false;
    }
  }

  private reset(head: Position): void {
    this.ports.counters.resets += 1;
    this.last = head.seq;
    this.epoch = head.epoch;
    this.highest = head.seq;
    this.early.clear();
    this.ring.clear();
    this.ports.onReset(this.members);
  }
}
