import { expect } from 'chai';
import type { Connection, Outgoing } from '../../src/hub/connection.js';
import type { Hub } from '../../src/hub/hub.js';
import type { HubClient } from '../../src/hub/hub-client.js';
import { type SubscribeReply, Subscription } from '../../src/hub/subscription.js';
import { errorEntry, TaskwireError } from '../../src/protocol/errors.js';
import type { SubscribeResult } from '../../src/protocol/messages.js';
import { parseRoom } from '../../src/protocol/rooms.js';
import { inRoom, type ReferenceLog, USER } from './hub-log.js';

/** More than may wait. */
export const CLOGGED = 2_000_000;
const NEVER = Number.POSITIVE_INFINITY;

interface Got {
  readonly type: string;
  readonly seq: number;
  readonly epoch: string;
  readonly jobId: string;
  readonly taskId: number;
  /** Of a snapshot: the room and its rows. */
  readonly room?: string;
  readonly rows?: ReadonlyMap<number, number>;
}

function read({ type, payload }: Outgoing): Got {
  const { seq, epoch, data } = JSON.parse(payload.toString());
  if (type === 'TASK_UPDATED') {
    return { type, seq, epoch: data.changes.epoch, jobId: data.job_id, taskId: data.task_id };
  }
  const kind = { JOB_TASKS_SNAPSHOT: 'job', TASK_SNAPSHOT: 'task', USER_TASKS_SNAPSHOT: 'user' }[type as string];
  const room = `${kind}:${data[`${kind}_id`]}`;
  const rows = new Map<number, number>();
  for (const task of data.tasks) {
    rows.set(task.task_id, task.seq);
  }
  return { type, seq, epoch, jobId: '', taskId: 0, room, rows };
}

/** One connection to the hub. */
abstract class HubConnection implements Connection {
  readonly identity = { keyId: 'k', owner: USER, role: 'user' as const, rateLimit: 1 };
  backlog = 0;
  closedWith: string | undefined;
  readonly hubClient: HubClient;

  constructor(
    readonly id: string,
    hub: Hub,
  ) {
    this.hubClient = hub.connect(this);
  }

  deliver(message: Outgoing): void {
    if (this.closedWith === undefined) {
      this.take(read(message));
    }
  }

  close(code: string): void {
    if (this.closedWith === undefined) {
      this.closedWith = code;
      this.hubClient.close();
      this.ended();
    }
  }

  /** Takes nothing for some time, as its gateway notices. */
  clog(on: boolean): void {
    this.backlog = on ? CLOGGED : 0;
    if (on) {
      this.hubClient.fallBehind();
    }
  }

  protected ended(): void {}

  disconnect(): void {
    this.close('left');
  }

  protected abstract take(message: Got): void;
}

interface Asked {
  readonly room: string;
  readonly since: number | undefined;
  readonly epoch: string | undefined;
  /** Number of messages that the connection had got when it asked. */
  readonly askedAt: number;
  ackedAt: number;
  leftAt: number;
  result: SubscribeResult | TaskwireError | undefined;
}

/** Asks for rooms and leaves them in any order, with whatever positions. */
export class FreeClient extends HubConnection {
  private readonly got: Got[] = [];
  private readonly subscriptions: Asked[] = [];

  /** Whether something was asked for and not answered. */
  get waits(): boolean {
    return this.closedWith === undefined && this.subscriptions.some(({ result }) => result === undefined);
  }

  /** `seq` of each event that it has got. */
  get events(): number[] {
    return this.got.filter(({ type }) => type === 'TASK_UPDATED').map(({ seq }) => seq);
  }

  subscribe(room: string, since: number | undefined, epoch: string | undefined): void {
    // A session asks for a room again only when the answer to the first time is there.
    const waits = this.subscriptions.some((before) => before.room === room && before.result === undefined);
    if (waits || this.closedWith !== undefined) {
      return;
    }
    const asked: Asked = {
      room,
      since,
      epoch,
      askedAt: this.got.length,
      ackedAt: NEVER,
      leftAt: NEVER,
      result: undefined,
    };
    this.subscriptions.push(asked);
    const reply: SubscribeReply = (result) => {
      asked.result = result;
      asked.ackedAt = this.got.length;
      if (!(result instanceof TaskwireError)) {
        this.end(room, asked);
      }
    };
    this.hubClient.subscribe({ userId: USER }, new Subscription(parseRoom(room), { since, epoch }, reply));
  }

  unsubscribe(room: string): void {
    // A session lets UNSUBSCRIBE wait for the SUBSCRIBE before it; here it is only asked for what was answered.
    const waits = this.subscriptions.some((item) => item.room === room && item.result === undefined);
    if (!waits && this.closedWith === undefined) {
      this.hubClient.leave(parseRoom(room));
      this.end(room);
    }
  }

  check(log: ReferenceLog): void {
    for (const subscription of this.subscriptions) {
      if (this.closedWith === undefined || subscription.result !== undefined) {
        this.checkRoom(log, subscription);
      }
    }
    this.checkSnapshots(log);
    this.checkEntitled();
    // Whoever asks again for a room, or for an overlapping one after it left or was refused one, wants copies.
    const once = new Set(this.subscriptions.map(({ room }) => room)).size === this.subscriptions.length;
    if (
      once &&
      this.subscriptions.every(({ leftAt, result }) => leftAt === NEVER && !(result instanceof TaskwireError))
    ) {
      const ids = this.got.filter(({ type }) => type === 'TASK_UPDATED').map(({ epoch, seq }) => `${epoch} ${seq}`);
      expect(new Set(ids).size, 'each event once per connection').to.equal(ids.length);
    }
  }

  protected take(message: Got): void {
    this.got.push(message);
  }

  /** What was asked for again and not answered had begun all the same. */
  protected override ended(): void {
    for (const subscription of this.subscriptions.filter(({ result }) => result === undefined)) {
      this.end(subscription.room, subscription);
    }
  }

  /** What was asked for and granted before does not go on. */
  private end(room: string, except?: Asked): void {
    for (const subscription of this.subscriptions) {
      if (subscription.room === room && subscription !== except && subscription.leftAt === NEVER) {
        subscription.leftAt = except?.askedAt ?? this.got.length;
      }
    }
  }

  /**
   * A room that was asked for again in vain goes on, from the snapshot that came or from what the client said it has; what
   * was replayed until then came twice.
   */
  private askedInVain(room: string, after: number): { from: number } | undefined {
    const asked = this.subscriptions.filter(
      (again) => again.room === room && again.askedAt >= after && again.result instanceof TaskwireError,
    );
    if (asked.length === 0) {
      return undefined;
    }
    const told = this.got.slice(after).map((message) => (message.room === room ? message.seq : 0));
    return { from: Math.max(0, ...told, ...asked.map(({ since }) => since ?? 0)) };
  }

  private seqs(room: string, epoch: string, from: number, to: number): number[] {
    return this.got
      .slice(from, to)
      .filter((message) => message.type === 'TASK_UPDATED' && message.epoch === epoch && inRoom(message, room))
      .map(({ seq }) => seq);
  }

  private checkRoom(log: ReferenceLog, { room, since, epoch, askedAt, ackedAt, leftAt, result }: Asked): void {
    expect(result, 'every SUBSCRIBE is answered').to.not.equal(undefined);
    if (result === undefined || result instanceof TaskwireError) {
      expect(result?.code).to.be.oneOf(['STREAM_RESET', 'DATABASE_UNAVAILABLE']);
      return;
    }
    const snapshot = this.got.slice(askedAt, ackedAt).findLast((message) => message.room === room);
    if (result.recovered) {
      expect(since, 'recovered only where a position was given').to.not.equal(undefined);
      expect(epoch ?? result.epoch, 'recovered only within an epoch').to.equal(result.epoch);
    } else if (since !== undefined || room.startsWith('job')) {
      expect(snapshot, 'what is not recovered is replaced by a snapshot').to.not.equal(undefined);
    }
    // Another room that is asked for with an older position may bring older events of this one along.
    const again = this.askedInVain(room, ackedAt);
    const from = Math.max(result.seq, again?.from ?? 0);
    let live = this.seqs(room, result.epoch, ackedAt, leftAt).filter((seq) => seq > from);
    if (again !== undefined) {
      live = live.filter((seq, index) => live.slice(0, index).every((before) => before < seq));
    }
    const goesOn = leftAt === NEVER && this.closedWith === undefined;
    if (goesOn) {
      expect(result.epoch, 'an epoch that has ended is left').to.equal(log.epoch);
    }
    const upTo = goesOn ? log.events.length : (live.at(-1) ?? from);
    const expected = (after: number, last: number): number[] =>
      log
        .history(result.epoch)
        .filter((event) => event.seq > after && event.seq <= last && inRoom(event, room))
        .map(({ seq }) => seq);
    expect(live, `${room} after the acknowledgement at ${result.seq}`).to.deep.equal(expected(from, upTo));
    const base = result.recovered ? since! : snapshot?.seq;
    if (base !== undefined) {
      const had = new Set(this.seqs(room, result.epoch, 0, ackedAt));
      const missed = expected(base, result.seq).filter((seq) => !had.has(seq));
      expect(missed, `${room} since ${base}, before the acknowledgement`).to.deep.equal([]);
    }
  }

  /** A snapshot replaces what the client knows of the room: it is not older than that, or what is newer comes after it. */
  private checkSnapshots(log: ReferenceLog): void {
    // What comes after a refusal or in a room that was left may begin further back, with all that is newer after it.
    const left = this.subscriptions.some(({ leftAt, result }) => leftAt !== NEVER || result instanceof TaskwireError);
    this.got.forEach(({ room, seq, epoch }, index) => {
      if (room === undefined) {
        return;
      }
      const before = this.got.slice(0, index).filter((message) => message.epoch === epoch);
      if (!left) {
        expect(Math.max(0, ...before.map((message) => message.seq)), `sent before ${room} at ${seq}`).to.be.at.most(
          seq,
        );
      }
    });
    for (const { room, askedAt, leftAt, result } of this.subscriptions) {
      const at = this.got.findLastIndex((message, index) => message.room === room && index >= askedAt);
      const granted = result !== undefined && !(result instanceof TaskwireError);
      // Who was refused it again had said what it had, true or not.
      const said = this.subscriptions.some(
        (again) => again.room === room && again.since !== undefined && again.result instanceof TaskwireError,
      );
      if (at >= 0 && granted && !said && leftAt === NEVER && this.closedWith === undefined) {
        const rows = new Map(this.got[at]!.rows);
        let position = this.got[at]!.seq;
        for (const message of this.got.slice(at + 1)) {
          // What an overlapping room brings along from further back is not newer here.
          if (message.type === 'TASK_UPDATED' && inRoom(message, room) && message.seq > position) {
            position = message.seq;
            rows.set(message.taskId, message.seq);
          }
        }
        expect([...rows].sort(), `rows of ${room}`).to.deep.equal([...log.rows(room)].sort());
      }
    }
  }

  /** Nothing comes that is of no room that was asked for and not left. */
  private checkEntitled(): void {
    this.got.forEach((message, index) => {
      const entitled = this.subscriptions.some(
        ({ room, askedAt, leftAt }) =>
          index >= askedAt &&
          index < leftAt &&
          (message.room ?? room) === room &&
          (message.room || inRoom(message, room)),
      );
      expect(Boolean(entitled), `message ${index} is of a room of the connection`).to.equal(true);
    });
  }
}

/** What a frontend knows of one room. */
class RoomView {
  position: number | undefined;
  epoch: string | undefined;
  base: number | undefined;
  seqs: number[] = [];
  acknowledged = false;
}

class FrontendConnection extends HubConnection {
  constructor(
    hub: Hub,
    private readonly onMessage: (message: Got) => void,
  ) {
    super('f', hub);
  }

  protected take(message: Got): void {
    this.onMessage(message);
  }
}

/**
 * A client as the protocol wants it: it asks for all of its rooms together, raises the position of each room with every
 * event of it, takes what is not newer for a copy, and comes back with its positions.
 */
export class Frontend {
  private rooms = new Map<string, RoomView>();
  private connection: FrontendConnection | undefined;
  private seen = new Set<string>();
  private readonly violations: string[] = [];

  constructor(private readonly hub: Hub) {}

  /** Whether each of its rooms is granted. */
  get live(): boolean {
    return [...this.rooms.values()].every(({ acknowledged }) => acknowledged) && !this.closed;
  }

  /** Connects for these rooms and whatever it had before. */
  open(rooms: readonly string[]): void {
    this.disconnect();
    for (const room of rooms) {
      if (!this.rooms.has(room)) {
        this.rooms.set(room, new RoomView());
      }
    }
    this.connect();
  }

  disconnect(): void {
    this.connection?.disconnect();
  }

  /** Connects again when the connection was closed. */
  comeBack(): void {
    if (this.closed) {
      this.connect();
    }
  }

  check(log: ReferenceLog): void {
    expect(this.violations).to.deep.equal([]);
    for (const [room, { base, seqs }] of this.rooms) {
      const expected = log.events.filter((event) => event.seq > base! && inRoom(event, room)).map(({ seq }) => seq);
      expect(seqs, `a frontend's ${room} from ${base}`).to.deep.equal(expected);
    }
  }

  private get closed(): boolean {
    return this.rooms.size > 0 && this.connection?.closedWith !== undefined;
  }

  private connect(): void {
    this.connection = new FrontendConnection(this.hub, (message) => this.take(message));
    this.seen = new Set();
    this.ask();
  }

  private ask(): void {
    const connection = this.connection!;
    let missing = this.rooms.size;
    let again = false;
    for (const [room, view] of this.rooms) {
      view.acknowledged = false;
      const { position, epoch } = view;
      if (position === undefined) {
        // A room that is asked for from here, again after a refusal, may bring what its neighbours were sent before.
        this.seen.clear();
      }
      const reply: SubscribeReply = (result) => {
        if (connection !== this.connection || connection.closedWith !== undefined) {
          return;
        }
        if (result instanceof TaskwireError) {
          again = true;
          if (errorEntry(result.code).retry !== 'later') {
            this.violations.push(result.code);
          }
        } else {
          view.base ??= result.seq;
          view.position = Math.max(view.position ?? 0, result.seq);
          view.epoch = result.epoch;
          view.acknowledged = true;
        }
        missing -= 1;
        if (missing === 0 && again) {
          setImmediate(() => connection.closedWith === undefined && this.ask());
        }
      };
      connection.hubClient.subscribe(
        { userId: USER },
        new Subscription(parseRoom(room), { since: position, epoch }, reply),
      );
    }
  }

  private take(message: Got): void {
    const { type, seq, epoch, room, taskId } = message;
    if (room !== undefined) {
      const view = this.rooms.get(room)!;
      view.position = view.base = seq;
      view.epoch = epoch;
      view.seqs = [];
      return;
    }
    if (this.seen.has(`${epoch} ${seq}`)) {
      this.violations.push(`copy of ${epoch} ${seq}`);
    }
    this.seen.add(`${epoch} ${seq}`);
    let news = false;
    for (const [name, view] of this.rooms) {
      if (inRoom(message, name)) {
        if (view.position === undefined) {
          // It starts where the answer will say.
          news = true;
        } else if (seq > view.position) {
          news = true;
          view.position = seq;
          view.seqs.push(seq);
        }
      }
    }
    if (!news) {
      this.violations.push(`${type} ${epoch} ${seq} of task ${taskId} out of order or seen before`);
    }
  }
}
