import { expect } from 'chai';
import type { Connection, Outgoing } from '../../src/hub/connection.js';
import type { Success } from '../../src/hub/reply.js';
import type { OpenSession, Session } from '../../src/hub/session.js';
import { errorEntry, TaskwireError } from '../../src/protocol/errors.js';
import { CLOGGED } from './hub-clients.js';
import { inRoom, JOB_OF, type ReferenceLog, USER } from './hub-log.js';

/** What stands on the wire, parsed. */
interface Message {
  readonly type: string;
  readonly seq: number;
  // biome-ignore lint/suspicious/noExplicitAny: messages of every form
  readonly data: any;
}

/** One side of a wire that carries messages late and in order, and loses what is on it when it is cut. */
class Wire implements Connection {
  readonly id = 'letter';
  readonly identity = { keyId: 'k', owner: USER, role: 'user' as const, rateLimit: 1 };
  backlog = 0;
  cut = false;
  private readonly session: Session;
  private readonly up: Array<() => void> = [];
  private readonly down: Array<() => void> = [];

  constructor(
    open: OpenSession,
    private readonly onMessage: (message: Message) => void,
    private readonly onCut: () => void,
  ) {
    this.session = open(this);
  }

  get empty(): boolean {
    return this.up.length === 0 && this.down.length === 0;
  }

  send(type: string, data: unknown, answer: (outcome: Success | TaskwireError) => void): void {
    this.up.push(() => this.session.handle(type, data, (outcome) => this.down.push(() => answer(outcome))));
  }

  /** @returns whether there was a message */
  carryUp(): boolean {
    const message = this.up.shift();
    message?.();
    return message !== undefined;
  }

  carryDown(): boolean {
    const message = this.down.shift();
    message?.();
    return message !== undefined;
  }

  deliver({ payload }: Outgoing): void {
    if (!this.cut) {
      this.down.push(() => this.onMessage(JSON.parse(payload.toString())));
    }
  }

  /** Takes nothing for some time, as its gateway notices. */
  clog(on: boolean): void {
    this.backlog = on ? CLOGGED : 0;
    if (on && !this.cut) {
      this.session.fallBehind();
    }
  }

  /** The server ends the connection: what it had sent arrives, then the end. */
  close(): void {
    if (!this.cut) {
      this.cut = true;
      this.session.close();
      this.down.push(() => this.onCut());
    }
  }

  /** The line breaks: what was on it, in either direction, is lost. */
  break(): void {
    if (!this.cut) {
      this.cut = true;
      this.session.close();
    }
    this.up.length = 0;
    this.down.length = 0;
    this.onCut();
  }
}

/** Where a room begins: where it was left, at a snapshot, or at one that comes in parts of so many tasks. */
export type Beginning = 'left' | 'snapshot' | number;

/** What the page says that a client keeps of a room. */
interface RoomState {
  position: { readonly seq: number; readonly epoch: string } | undefined;
  /** What was asked last: with a position, or for a snapshot. */
  asked: { readonly seq: number; readonly epoch: string } | undefined;
  /** SUBSCRIBEs without an answer. */
  pending: number;
  /** Whether this connection is in the room. */
  live: boolean;
}

/**
 * A client that does what docs/protocol.md says of `Positions`, to the letter and no further. Its tasks stand in one place,
 * with the `seq` up to which each is known.
 *
 * @param eager moves positions before the answer too, which that page forbids
 */
export class LetterClient {
  /** What it got, as `TYPE seq: task ids`. */
  readonly got: string[] = [];
  /** The positions that it was told last. */
  told: ReadonlyArray<{ readonly room: string; readonly seq: number }> = [];
  private wire: Wire | undefined;
  private readonly rooms = new Map<string, RoomState>();
  /** Positions of rooms that were left, with their rows kept. */
  private readonly left = new Map<string, { readonly seq: number; readonly epoch: string }>();
  private rows = new Map<number, { event: number; known: number }>();
  /** The lowest id of each room's snapshot so far. */
  private readonly restBelow = new Map<string, number>();
  private refusals: string[] = [];
  /** Tasks in a message of the snapshots that it asks for now. */
  private limit: number | undefined;

  constructor(
    private readonly open: OpenSession,
    private readonly eager = false,
  ) {}

  get settled(): boolean {
    return (
      (this.wire?.empty ?? true) &&
      [...this.rooms.values()].every(({ pending, live }) => pending === 0 && live === true)
    );
  }

  /** Asks for rooms together; for one that was left, from where it was left. */
  subscribe(names: readonly string[], from: Beginning): void {
    this.limit = typeof from === 'number' ? from : undefined;
    this.ask([...new Set(names)].map((name) => [name, from === 'left' ? this.knownOf(name) : undefined] as const));
  }

  /** Leaves rooms. Their rows are kept where `keep` says so, to come back with the position. */
  unsubscribe(names: readonly string[], keep: boolean): void {
    const leaving = [...new Set(names)].filter((name) => this.rooms.has(name));
    if (leaving.length === 0) {
      return;
    }
    for (const name of leaving) {
      const { position, pending } = this.rooms.get(name)!;
      this.rooms.delete(name);
      this.left.delete(name);
      if (keep && position !== undefined && pending === 0) {
        this.left.set(name, position);
      }
    }
    this.connection().send('UNSUBSCRIBE', { rooms: leaving }, () => {});
  }

  ping(): void {
    this.connection().send('PING', undefined, (outcome) => {
      this.told = ((outcome as Success).data as Message['data']).positions;
      for (const { room, seq, epoch } of ((outcome as Success).data as Message['data']).positions) {
        this.stand(room, seq, epoch);
      }
    });
  }

  /** @param most how many messages arrive at the server */
  carryUp(most: number): void {
    for (let carried = 0; carried < most && this.wire?.carryUp(); carried += 1);
  }

  /** @param most how many messages arrive here */
  carryDown(most: number): void {
    for (let carried = 0; carried < most && this.wire?.carryDown(); carried += 1);
  }

  break(): void {
    this.wire?.break();
  }

  clog(on: boolean): void {
    this.wire?.clog(on);
  }

  /** Comes back where it was cut off, and asks again for what was refused for the moment. */
  goOn(): void {
    const wanting = [...this.rooms].filter(([, { live, pending }]) => !live && pending === 0);
    if (wanting.length > 0) {
      this.ask(wanting.map(([name, { position, asked }]) => [name, position ?? asked] as const));
    }
  }

  check(log: ReferenceLog): void {
    expect(this.refusals).to.deep.equal([]);
    for (const [name] of this.rooms) {
      const rows = [...this.rows].filter(([taskId]) => inRoom(taskOf(taskId), name));
      expect(rows.map(([taskId, { event }]) => [taskId, event]).sort(), `rows of ${name}`).to.deep.equal(
        [...log.rows(name)].sort(),
      );
    }
  }

  private connection(): Wire {
    if (this.wire === undefined) {
      const wire: Wire = new Wire(
        this.open,
        (message) => this.take(message),
        () => {
          if (this.wire === wire) {
            this.wire = undefined;
            this.cutOff();
          }
        },
      );
      this.wire = wire;
    }
    return this.wire;
  }

  /** What was under way is asked for again from what was said then. */
  private cutOff(): void {
    for (const state of this.rooms.values()) {
      if (state.pending > 0 && !this.eager) {
        state.position = state.asked;
      }
      state.pending = 0;
      state.live = false;
    }
  }

  private knownOf(name: string): RoomState['position'] {
    const state = this.rooms.get(name);
    return state === undefined ? this.left.get(name) : state.pending > 0 ? state.asked : state.position;
  }

  private ask(rooms: ReadonlyArray<readonly [name: string, from: RoomState['position']]>): void {
    const wire = this.connection();
    const data = rooms.map(([room, from]) =>
      from === undefined
        ? { room, snapshot: this.limit === undefined ? true : { limit: this.limit } }
        : { room, since: from.seq, epoch: from.epoch },
    );
    const asked = rooms.map(([name, from]) => {
      const state = this.rooms.get(name) ?? { position: from, asked: from, pending: 0, live: false };
      state.asked = from;
      state.pending += 1;
      this.rooms.set(name, state);
      this.left.delete(name);
      return [name, state] as const;
    });
    wire.send('SUBSCRIBE', { rooms: data }, (outcome) => {
      if (outcome instanceof TaskwireError) {
        throw outcome;
      }
      for (const [index, [, state]] of asked.entries()) {
        const { error, seq, epoch } = (outcome.data as Message['data']).rooms[index];
        state.pending -= 1;
        if (error !== undefined) {
          if (errorEntry(error.code).retry !== 'later') {
            this.refusals.push(error.code);
          }
        } else {
          state.live = true;
          if (state.pending === 0) {
            state.position = { seq, epoch };
          }
        }
      }
    });
  }

  private take({ type, seq, data }: Message): void {
    const ids = data.task_id ?? data.tasks?.map((task: { task_id: number }) => task.task_id);
    this.got.push(`${type} ${seq}: ${ids}`);
    if (type === 'TASK_UPDATED') {
      const row = this.rows.get(data.task_id);
      if (row === undefined || seq > row.known) {
        this.rows.set(data.task_id, { event: seq, known: seq });
      }
      for (const [name, state] of this.rooms) {
        if (inRoom(taskOf(data.task_id), name) && state.position !== undefined && seq > state.position.seq) {
          this.stand(name, seq, state.position.epoch);
        }
      }
    } else if (type === 'POSITION') {
      for (const position of data.positions) {
        this.stand(position.room, position.seq, position.epoch);
      }
    } else {
      this.takeTasks(type, seq, data);
    }
  }

  /** A snapshot, or a part of one, is all that there is between two ids. */
  private takeTasks(type: string, seq: number, data: Message['data']): void {
    const kind = { JOB_TASKS_SNAPSHOT: 'job', TASK_SNAPSHOT: 'task', USER_TASKS_SNAPSHOT: 'user' }[type];
    const room: string = kind === undefined ? data.room : `${kind}:${data[`${kind}_id`]}`;
    const below = kind === undefined ? this.restBelow.get(room)! : Number.POSITIVE_INFINITY;
    const from = data.before ?? 0;
    for (const taskId of this.rows.keys()) {
      if (taskId >= from && taskId < below && inRoom(taskOf(taskId), room)) {
        this.rows.delete(taskId);
      }
    }
    for (const task of data.tasks) {
      expect(task.task_id).to.be.within(from, below - 1);
      this.rows.set(task.task_id, { event: task.seq, known: seq });
    }
    this.restBelow.set(room, from);
    expect(data.parts === true, 'what is truncated goes on').to.equal(data.before !== undefined);
  }

  /** Positions count from a room's answer on. */
  private stand(room: string, seq: number, epoch: string): void {
    const state = this.rooms.get(room);
    if (state !== undefined && (this.eager || (state.live && state.pending === 0))) {
      state.position = { seq, epoch };
    }
  }
}

const taskOf = (taskId: number): { jobId: string; taskId: number } => ({ jobId: JOB_OF[taskId]!, taskId });
