import { TaskwireError, toTaskwireError } from '../protocol/errors.js';
import type { Position, SnapshotRequest } from '../protocol/messages.js';
import type { LogReader, SnapshotExtent } from './log-reader.js';
import type { Membership } from './membership.js';
import type { EventPage, RoomSnapshot } from './message.js';
import { Progress } from './progress.js';
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
 *              at `since`, when the epoch is the stream's and the log still reaches back to it (or, for a task's room, to
 *              the creation of the task);
 *              else at a snapshot, which is sent at once, for a job's room or when `since` could not be served;
 *              else where the membership stood when the catch-up began.
 *   partial  The snapshot did not fit into one message, and the client wants all of it (`sendRest`). Parts follow, from newer
 *            tasks to older ones. Each is true at a position of its own, and before it comes what happened up to there
 *            to the tasks that were sent already. So at each moment the client has some tasks, all true at one position.
 *   behind   Events after `after` are missing. They are sent page by page, by rising `seq`, for all rooms of the
 *            membership at once (`sendPage`). `after` rises with each event. When the log no longer has the next event,
 *            the room gets a snapshot and is placed anew.
 *   live     What is missing stands in the stream's ring. In one turn of the event loop it is sent, the rooms are
 *            joined and the answers are given (`goLive`), so no event falls between.
 *   refused  Something failed: the log could not be read, or it is another one now (STREAM_RESET). The client is told.
 *
 * The rooms that the connection was in before are held meanwhile: live events pass them by and are sent from here, in
 * order with the others. They go on whether the catch-up succeeds or is refused. A room that is asked for again while it
 * is live is one of those asked for, and goes on as before when it is refused.
 *
 * A client that does not keep up is held in the same way, without asking for anything: its rooms are `behind` until it
 * has taken what was sent, and what comes meanwhile waits in the ring or in the log.
 *
 * What is large (a snapshot, a part, a page) goes through the connection's Line, one at a time.
 */

/** What a catch-up asks of its surroundings. */
export interface CatchUpPorts {
  readonly log: Pick<LogReader, 'page' | 'state' | 'snapshot'>;
  /** Called with an unexpected error: it is logged. */
  onError(membership: Membership, error: TaskwireError): void;
}

/**
 * Serves everything that was asked of a membership, and what is asked meanwhile. One call works, others return at once.
 * @param fellBehind the client does not keep up: its rooms are brought up to date when it has taken what waits
 */
export async function catchUp(membership: Membership, ports: CatchUpPorts, fellBehind = false): Promise<void> {
  if (!membership.beginCatchUp()) {
    return;
  }
  if (fellBehind) {
    await serve(membership, [], ports);
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
    if (asked.length > 0) {
      await membership.stream.ready;
    }
    work = new CatchUp(membership, asked, ports);
    await work.run();
  } catch (error) {
    work?.progress.abandon();
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
  readonly progress: Progress;

  constructor(
    private readonly membership: Membership,
    private readonly asked: readonly Subscription[],
    private readonly ports: CatchUpPorts,
  ) {
    this.progress = new Progress(membership, asked);
  }

  async run(): Promise<void> {
    for (const subscription of this.asked) {
      this.progress.add(subscription);
      await this.place(subscription);
      if (this.membership.closed) {
        return;
      }
    }
    while (!this.membership.closed) {
      const lost = await this.membership.line.whenClear(() => this.advance());
      if (lost === undefined) {
        return;
      }
      for (const subscription of lost) {
        await this.sendSnapshot(subscription);
      }
    }
  }

  /** Decides where a room starts. */
  private async place(subscription: Subscription): Promise<void> {
    const { since, epoch, snapshot } = subscription.request;
    const { stream } = this.membership;
    const rest = typeof snapshot === 'object' ? snapshot.before : undefined;
    if (since !== undefined && (epoch === undefined || epoch === stream.epoch)) {
      const start = await this.startOf(subscription, since);
      if (start !== undefined) {
        subscription.startAt(start, true);
        await this.sendRest(subscription, rest);
        return;
      }
    }
    // Rooms other than jobs have no snapshot unless it is asked for or replaces what could not be replayed.
    if (since === undefined && rest !== undefined) {
      subscription.startAt(this.progress.heldAt, false);
      await this.sendRest(subscription, rest);
    } else if (snapshot ?? (subscription.room.kind === 'job' || since !== undefined)) {
      await this.sendSnapshot(subscription);
    } else {
      // From where the membership was held, so that a room that is asked for again has no gap.
      subscription.startAt(this.progress.heldAt, false);
    }
  }

  /** From where everything after `since` can be sent; undefined when something of it is no longer there. */
  private async startOf({ room }: Subscription, since: number): Promise<number | undefined> {
    const { keyId, stream } = this.membership;
    if (since <= stream.last && stream.ring.covers(since, stream.last)) {
      return since;
    }
    let state = await this.ports.log.state(keyId, stream.userId);
    if (since > state.seq) {
      // Equal reads are shared. This one may have begun before the commit of an event that the client has already.
      state = await this.ports.log.state(keyId, stream.userId);
    }
    this.checkEpoch(state);
    if (since >= state.floor) {
      return since <= state.seq ? since : undefined;
    }
    if (room.kind === 'task') {
      // Nothing happened to a task before it was made: the log has all of it when it has that.
      const { floor, events, ...head } = await this.ports.log.page(keyId, stream.userId, [
        { kind: room.kind, id: room.id, after: since },
      ]);
      this.checkEpoch(head);
      return events[0]?.type === 'TASK_CREATED' ? Math.max(since, floor) : undefined;
    }
    return undefined;
  }

  /** Sends a snapshot, and its parts when the client wants them and there are any. */
  private async sendSnapshot(subscription: Subscription): Promise<void> {
    const { membership } = this;
    const { parts, extent } = extentOf(subscription.request.snapshot);
    const oldest = await membership.line.whenClear(async () => {
      const bytes = parts ? membership.line.window : undefined;
      const snapshot = await this.readSnapshot(subscription, { ...extent, bytes });
      if (membership.closed) {
        return undefined;
      }
      membership.line.deliver(snapshot.message);
      subscription.startAt(snapshot.seq, false);
      return snapshot.truncated ? snapshot.oldest : undefined;
    });
    if (parts) {
      await this.sendRest(subscription, oldest);
    }
  }

  /** Sends the tasks below an id, part by part, each no larger than what the line takes at once. */
  private async sendRest(subscription: Subscription, end: number | undefined): Promise<void> {
    const { membership, progress } = this;
    let before = end;
    while (before !== undefined && !membership.closed) {
      const { extent } = extentOf(subscription.request.snapshot);
      const below = before;
      subscription.expectRest(below);
      before = await membership.line.whenClear(async () => {
        const part = await this.readSnapshot(subscription, { ...extent, bytes: membership.line.window, before: below });
        if (part.oldest !== undefined && part.oldest >= below) {
          throw new Error(`A part of ${subscription.room.name} below ${below} begins at ${part.oldest}`);
        }
        await this.bringTo(part.seq);
        if (membership.closed) {
          return undefined;
        }
        membership.line.deliver(part.message);
        progress.reach(part.seq);
        return part.truncated ? part.oldest : undefined;
      });
    }
    subscription.expectRest(undefined);
  }

  /**
   * Reads a snapshot that is not older than what the client has: it replaces the client's tasks of the room.
   * @throws TaskwireError STREAM_RESET: also when the room has just moved to another user. When the client asks again, the
   * new owner is looked up.
   */
  private async readSnapshot({ room }: Subscription, extent: SnapshotExtent): Promise<RoomSnapshot> {
    const { membership, ports, progress } = this;
    const known = progress.highest;
    let snapshot = await ports.log.snapshot(membership.keyId, room, extent);
    if (snapshot.seq < known && snapshot.epoch === membership.stream.epoch) {
      // Equal reads are shared. This one had begun earlier.
      snapshot = await ports.log.snapshot(membership.keyId, room, extent);
    }
    if (membership.closed) {
      return snapshot;
    }
    if (snapshot.userId !== membership.stream.userId) {
      throw new TaskwireError('STREAM_RESET');
    }
    this.checkEpoch(snapshot);
    if (snapshot.seq < known) {
      membership.stream.observeHead(snapshot, known);
      throw new TaskwireError('STREAM_RESET');
    }
    return snapshot;
  }

  /** Sends everything that is missing up to a position, and nothing above it. */
  private async bringTo(goal: number): Promise<void> {
    const { membership, progress } = this;
    const { stream } = membership;
    while (progress.lowest < goal && !membership.closed) {
      if (goal <= stream.last && stream.ring.covers(progress.lowest, stream.last)) {
        progress.sendFromRing(goal);
        return;
      }
      const page = await this.readPage();
      if ((progress.lost(page.floor)?.length ?? 1) > 0) {
        throw new TaskwireError('STREAM_RESET');
      }
      await this.sendPage(page, goal);
    }
  }

  /**
   * Lets the rooms go live when what is missing is near, or sends a page of it.
   * @returns rooms that need a snapshot, as the log no longer has what they miss; undefined at the end
   */
  private async advance(): Promise<readonly Subscription[] | undefined> {
    const { membership, progress } = this;
    if (membership.closed) {
      return undefined;
    }
    if (progress.near) {
      progress.goLive();
      this.answer();
      return undefined;
    }
    const page = await this.readPage();
    if (membership.closed) {
      return undefined;
    }
    const lost = progress.lost(page.floor);
    if (lost === undefined) {
      throw new TaskwireError('STREAM_RESET');
    }
    if (lost.length === 0) {
      await this.sendPage(page, Number.POSITIVE_INFINITY);
    }
    return lost;
  }

  private async readPage(): Promise<EventPage> {
    const { keyId, stream } = this.membership;
    const page = await this.ports.log.page(keyId, stream.userId, this.progress.cursors());
    if (!this.membership.closed) {
      this.checkEpoch(page);
    }
    return page;
  }

  /** Sends the events of a page up to a position, no faster than the client takes them. */
  private async sendPage(page: EventPage, goal: number): Promise<void> {
    const { membership, progress } = this;
    for (const event of page.events) {
      if (membership.line.full) {
        await membership.line.clear();
      }
      if (membership.closed || event.seq > goal) {
        break;
      }
      progress.send(event);
      progress.reach(event.seq);
    }
    // What was left out is above the goal.
    const end = page.complete ? page.seq : (page.events.at(-1)?.seq ?? 0);
    if (!membership.closed) {
      progress.reach(Math.min(end, goal));
    }
  }

  private answer(): void {
    const { position, stream } = this.membership;
    for (const subscription of this.asked) {
      const { room, recovered, replayed } = subscription;
      subscription.answer({ room: room.name, seq: position, epoch: stream.epoch, recovered, replayed });
    }
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

/** What a client wants of a snapshot: whether all of it, and how much in one message. */
function extentOf(asked: boolean | SnapshotRequest | undefined): { parts: boolean; extent: SnapshotExtent } {
  if (typeof asked !== 'object') {
    return { parts: false, extent: { inParts: false } };
  }
  const { parts = true, limit } = asked;
  return { parts, extent: { inParts: parts, limit } };
}
