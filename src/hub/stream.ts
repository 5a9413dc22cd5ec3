import type { Position } from '../protocol/messages.js';
import { decodeStreamMessage } from '../protocol/stream-message.js';
import type { EventPage, HubEvent } from './message.js';
import { Ring, type RingBudget } from './ring.js';
import { type Member, RoomMembers } from './room-members.js';

/** What a stream asks of its surroundings. */
export interface StreamPorts {
  /**
   * Has the stream's messages brought to `receive`.
   * @param known a head of the log that was read before that
   * @returns the head to begin at. What came between one that was read before and the first message is missing, and is told
   * by `observeHead` soon.
   */
  open(stream: Stream, known: Position | undefined): Promise<Position>;
  /** Events of the whole stream after a position, from the log. */
  read(userId: string, after: number): Promise<EventPage>;
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
  /** Events that nobody publishes: they were read from the log. */
  captured: number;
  resets: number;
}

/** Most messages ahead of a gap that are kept. Further ones are read from the log later. */
const MAX_EARLY = 1_000;

/** How long a gap may close by itself, in milliseconds: messages of two publishers may arrive in the wrong order. */
const GAP_PATIENCE_MS = 10;
/** How long a message may come later than its event is in the log, in milliseconds. Then it counts as lost. */
const LOG_PATIENCE_MS = 200;

/**
 * The events of one user, in order, on their way to the members of its rooms on this worker.
 *
 * Invariant: members have been given exactly the events up to `last`, each once. A message with `seq` last+1 is
 * delivered, a lower one dropped, a higher one proves a gap, which is closed by the messages that are late or by the log.
 */
export class Stream {
  readonly ring: Ring;
  /** Who is in which of its rooms. */
  readonly rooms = new RoomMembers();
  /** Resolves when the stream is in order, rejects when it could not be started. */
  readonly ready: Promise<void>;

  /** Everybody who is in one of its rooms or on the way into one. */
  private readonly members = new Set<Member>();
  /** Since when it has no members, by the caller's clock. */
  private idleSince: number | undefined;
  private lastSeq = 0;
  private epochNow = '';
  private started = false;
  private readonly early = new Map<number, HubEvent>();
  /** Highest `seq` that is known to exist. */
  private highest = 0;
  private patience: NodeJS.Timeout | undefined;
  private repairing = false;
  private stopped = false;

  constructor(
    readonly userId: string,
    private readonly ports: StreamPorts,
    limits: { readonly ringEvents: number; readonly ringBudget: RingBudget },
    known?: Position,
  ) {
    this.ring = new Ring(limits.ringEvents, limits.ringBudget);
    this.ready = ports.open(this, known).then((head) => this.start(head));
    // Those who join wait for it and handle the error.
    this.ready.catch(() => {});
  }

  /** `seq` of the event that the members were given last. */
  get last(): number {
    return this.lastSeq;
  }

  get epoch(): string {
    return this.epochNow;
  }

  private start(head: Position): void {
    this.started = true;
    this.lastSeq = head.seq;
    this.epochNow = head.epoch;
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

  /**
   * Takes note of the log's head as it was read some time after `lastThen` was this stream's position.
   * @param broker whether what was published may still arrive
   */
  observeHead(head: Position, lastThen: number, broker = true): void {
    if (!this.started) {
      return;
    }
    if (head.epoch !== this.epoch || head.seq < lastThen) {
      this.reset(head);
    } else if (head.seq > this.last) {
      this.highest = Math.max(this.highest, head.seq);
      void this.repair(broker ? 0 : Number.POSITIVE_INFINITY);
    }
  }

  add(member: Member): void {
    this.members.add(member);
    this.idleSince = undefined;
  }

  remove(member: Member): void {
    this.members.delete(member);
  }

  /**
   * How long it has had no members, counted from the first call that found none.
   * @param now by a clock that never steps, in milliseconds
   */
  idleFor(now: number): number {
    if (this.members.size > 0) {
      return 0;
    }
    this.idleSince ??= now;
    return now - this.idleSince;
  }

  private accept(events: readonly HubEvent[]): void {
    for (const event of events) {
      if (!this.started) {
        this.keepEarly(event);
      } else if (event.epoch !== this.epoch) {
        // Another epoch means another database, or a restored one. The next reconcile finds out.
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
    if (this.started && this.highest > this.last && !this.repairing) {
      this.waitThenRepair(GAP_PATIENCE_MS);
    }
  }

  private waitThenRepair(ms: number): void {
    if (this.patience === undefined) {
      const late = this.highest;
      this.patience = setTimeout(() => {
        // When this process was held up, the missing messages may have arrived: they are read first.
        setImmediate(() => {
          this.patience = undefined;
          void this.repair(late);
        });
      }, ms);
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
    this.lastSeq = event.seq;
    this.ring.push(event);
    const { counters } = this.ports;
    counters.events += 1;
    if (event.unpublished === true) {
      counters.captured += 1;
    }
    counters.deliveries += this.rooms.offer(event);
  }

  /**
   * Reads the log from `last` on until nothing that is known to exist is missing, or is only on its way.
   * @param late up to this `seq`, an event without a message counts as lost; a later message may still come
   */
  private async repair(late: number): Promise<void> {
    if (this.repairing || this.stopped) {
      return;
    }
    this.repairing = true;
    let awaits = false;
    try {
      while (this.highest > this.last && !this.stopped && !awaits) {
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
        awaits = this.take(page.events, late);
        if (!awaits && this.last === before && page.complete) {
          // The log does not have what `highest` promised: that was the head of another database.
          this.highest = this.last;
        }
      }
    } catch (error) {
      this.ports.onRepairFailed(this.userId, error);
    } finally {
      this.repairing = false;
    }
    if (awaits && this.highest > this.last && !this.stopped) {
      this.waitThenRepair(LOG_PATIENCE_MS);
    }
  }

  /**
   * Takes events of the log up to one that the broker may still bring.
   * @returns whether there is one
   */
  private take(events: readonly HubEvent[], late: number): boolean {
    const missed = (event: HubEvent): boolean =>
      event.seq > this.last && event.unpublished !== true && !this.early.has(event.seq);
    const end = events.findIndex((event) => event.seq > late && missed(event));
    const taken = end < 0 ? events : events.slice(0, end);
    if (taken.some(missed)) {
      this.ports.counters.repairs += 1;
    }
    this.accept(taken);
    this.highest = Math.max(this.highest, events.at(-1)?.seq ?? 0);
    return end >= 0;
  }

  private reset(head: Position): void {
    this.ports.counters.resets += 1;
    this.lastSeq = head.seq;
    this.epochNow = head.epoch;
    this.highest = head.seq;
    this.early.clear();
    this.ring.clear();
    for (const member of [...this.members]) {
      member.reset();
    }
  }
}
