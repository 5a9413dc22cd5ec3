import { ROOM, type RoomEvent, type RoomState } from './machine.js';
import type {
  ErrorBody,
  Position,
  SnapshotMessage,
  SnapshotPart,
  SubscribeRequest,
  SubscribeResult,
  TaskEvent,
  TaskRow,
} from './protocol.js';
import { applyTo, type Rows, rowsOf } from './rows.js';

/** Events that may wait for the answer of a room; with more the room is asked for with a snapshot. */
const MAX_KEPT = 10_000;

/** What a room tells of itself. */
export interface RoomTold {
  /** An event was applied. */
  event(event: TaskEvent): void;
  /** The rows were replaced by those of a later position; events that lie between are not told. */
  resync(): void;
  /** It looks different: told once for all that came together. */
  changed(): void;
  /** It is held: somebody has to ask for it again. */
  held(): void;
}

/**
 * One room: its rows, its position, and the rule by which they move.
 *
 * The position moves by the room's answer, and then by each event and each word of the server about it. Until the answer
 * is there, everything that belongs to the room is kept aside, parts of a snapshot too; with the answer it is put in order,
 * copies are dropped, and it is applied at once. So whatever happens on the way, rows and position are either those of before or complete.
 *
 * Nothing here knows time or the network.
 */
export class Room {
  state: RoomState = 'off';
  position: Position | undefined;
  rows: Rows = new Map();
  truncated = false;
  error: ErrorBody | undefined;
  /** Counts the times that it was asked for: an answer to an earlier one is nobody's. */
  asked = 0;
  /** Whether nothing of the room can have passed by on this connection before it was asked for. */
  #whole = false;
  #kept: TaskEvent[] = [];
  /** The snapshot that is arriving: its beginning, and its parts from newer tasks to older ones. */
  #parts: Array<SnapshotMessage | SnapshotPart> = [];

  constructor(
    readonly name: string,
    readonly told: RoomTold,
  ) {}

  /** Takes a state that is known from elsewhere: an answer of REST, a storage. */
  start(position: Position, tasks: readonly TaskRow[], truncated = false): void {
    this.position = position;
    this.rows = rowsOf(tasks);
    this.truncated = truncated;
  }

  go(event: RoomEvent): void {
    this.state = ROOM[this.state][event];
  }

  /** The connection is new: what it sends of this room is seen from its beginning. */
  opened(): void {
    this.#whole = true;
  }

  lost(): void {
    this.go('lost');
    this.#whole = false;
    this.#kept = [];
  }

  /** What to ask for: what came after the position where that is sure to be all, a snapshot otherwise. */
  ask(): SubscribeRequest {
    this.go('ask');
    this.asked += 1;
    this.error = undefined;
    this.#parts = [];
    const { name, position } = this;
    const request = { room: name, snapshot: { parts: true } };
    if (position !== undefined && this.#whole) {
      const { seq, epoch } = position;
      return { ...request, since: seq, ...(epoch === '' ? {} : { epoch }) };
    }
    // What is kept from before is in the snapshot, or comes after it.
    return request;
  }

  /** An event that belongs to the room. */
  event(event: TaskEvent): void {
    if (this.state === 'joining' || this.state === 'held') {
      if (this.#kept.push(event) > MAX_KEPT) {
        this.#kept = [];
        this.#whole = false;
        this.asked += 1;
        this.#gap();
      }
    } else if (this.state === 'live' && event.seq > this.position!.seq) {
      this.#apply(event);
      this.told.changed();
    }
  }

  /** A snapshot of the room, or a further part of it. */
  replace(message: SnapshotMessage | SnapshotPart): void {
    if (this.state === 'joining') {
      // A part says its room.
      if (!('room' in message.data)) {
        this.#parts = [message];
      } else if (this.#parts.length > 0) {
        this.#parts.push(message);
      }
    }
  }

  /** The answer to `ask`. */
  joined({ seq, epoch, recovered, replayed }: SubscribeResult): void {
    const before = this.position;
    const parts: ReadonlyArray<Position & { data?: SnapshotMessage['data'] }> =
      recovered && before !== undefined ? [before] : this.#parts;
    const last = parts.at(-1);
    const events = this.#after(parts[0]?.seq ?? 0);
    this.#parts = [];
    // Without a beginning or an end, or with less than the server says that it sent, something is missing.
    if (
      last === undefined ||
      last.data?.parts ||
      parts.some((part) => (part.epoch || epoch) !== epoch) ||
      events.length < replayed
    ) {
      this.#gap();
      return;
    }
    this.#kept = [];
    this.go('joined');
    this.position = { seq: last.seq, epoch };
    if (last.data !== undefined) {
      this.rows = rowsOf(parts.flatMap(({ data }) => data!.tasks));
      this.truncated = last.data.truncated === true;
      for (const event of events) {
        // What was sent ahead of a part is in that part, or changes a task of one before it.
        const home = parts.find(({ data }) => !(event.data.task_id < data!.before!))!;
        if (event.seq > home.seq && event.seq <= last.seq && !applyTo(this.rows, event)) {
          this.#gap();
          return;
        }
      }
      if (before !== undefined) {
        this.told.resync();
      }
    }
    for (const event of events) {
      if (this.state === 'live' && event.seq > last.seq) {
        this.#apply(event);
      }
    }
    this.server({ seq, epoch });
    this.told.changed();
  }

  refused(error: ErrorBody, later: boolean): void {
    this.go(later ? 'later' : 'never');
    this.error = later ? undefined : error;
    this.told.changed();
  }

  /** What the server says of where the connection stands in this room. */
  server({ seq, epoch }: Position): void {
    const { position } = this;
    if (this.state !== 'live' || position === undefined) {
      return;
    }
    if (epoch !== position.epoch || (seq > position.seq && this.#counts)) {
      this.#gap();
    } else if (seq > position.seq) {
      this.position = { seq, epoch };
    }
  }

  /** Whether every number of the stream is an event of this room. */
  get #counts(): boolean {
    return this.name.startsWith('user:');
  }

  #gap(): void {
    this.#whole = false;
    this.go('gap');
    this.told.held();
    this.told.changed();
  }

  /** What was kept and lies after a position: in order, each once. */
  #after(seq: number): TaskEvent[] {
    const bySeq = new Map(this.#kept.filter((event) => event.seq > seq).map((event) => [event.seq, event]));
    return [...bySeq.values()].sort((a, b) => a.seq - b.seq);
  }

  #apply(event: TaskEvent): void {
    const { seq, epoch } = this.position!;
    if (this.#counts && event.seq !== seq + 1) {
      this.#gap();
      return;
    }
    // A task that is not among all rows, and that was not made now, is one whose event was missed.
    if (!applyTo(this.rows, event) && !this.truncated) {
      this.#gap();
      return;
    }
    this.position = { seq: event.seq, epoch };
    this.told.event(event);
  }
}
