import type { Engine } from './engine.js';
import type { ErrorBody, Position, TaskEvent, TaskRow } from './protocol.js';
import { Queue } from './queue.js';
import { Room } from './room.js';

/**
 * What a room looks like now. The object is another one whenever something in it is; rows that did not change are the same.
 * - `loading`: no rows yet
 * - `live`: the rows are those of `position`, and changes arrive
 * - `stale`: the rows are those of `position`; the connection is away and comes back by itself
 * - `error`: refused for good, as `error` says; rows that were there stay
 */
export interface RoomSnapshot {
  readonly status: 'loading' | 'live' | 'stale' | 'error';
  /** In order of their ids. */
  readonly tasks: readonly TaskRow[];
  /** Up to which event the rows are true. */
  readonly position?: Position;
  readonly error?: ErrorBody;
  /** The job has more tasks than these, which are the newest. */
  readonly truncated: boolean;
}

/** Rows that are known from elsewhere: an answer of REST, say, from when the page was rendered. */
export interface InitialData {
  readonly tasks: readonly TaskRow[];
  readonly position: Position;
  /** There are more tasks than these. */
  readonly truncated?: boolean;
}

/** Instead of events that cannot be had any more: the rows of now, and their position. */
export interface Resync {
  readonly type: 'RESYNC';
  readonly tasks: readonly TaskRow[];
  readonly position: Position;
}

/** What an iteration yields: events with the position after them, and now and then a new start. */
export type StreamItem = (TaskEvent & { readonly position: Position }) | Resync;

/** Why a client gave up. */
export class TaskwireClientError extends Error {
  override readonly name = 'TaskwireClientError';
  constructor(
    /** A code of the error table, or `CLOSED`. */
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

/** Events that may wait for who iterates; behind that a `RESYNC` stands for them. */
const MAX_WAITING = 10_000;
export const LOADING: RoomSnapshot = { status: 'loading', tasks: [], truncated: false };

export interface RoomPorts {
  readonly engine: Engine;
  /** How long a room that nobody watches is kept, in milliseconds. */
  readonly lingerMs: number;
  readonly later: (work: () => void, ms: number) => unknown;
  readonly never: (timer: unknown) => void;
  /** The room is left. */
  readonly left: (store: RoomStore) => void;
  /** Rows of an earlier page. */
  readonly load: (name: string) => InitialData | undefined;
}

/** One room as many see it: it is asked for with the first watcher and left after the last. */
export class RoomStore {
  room: Room | undefined;
  readonly #ports: RoomPorts;
  readonly #save: ((store: RoomStore) => void) | undefined;
  readonly #listeners = new Set<() => void>();
  readonly #events = new Set<(item: StreamItem) => void>();
  #watchers = 0;
  #timer: unknown;
  #cached: RoomSnapshot | undefined;
  #initial: InitialData | undefined;

  constructor(
    readonly name: string,
    ports: RoomPorts,
    /** Keeps the rows for a later page; undefined: this is a room of events, without rows. */
    save: ((store: RoomStore) => void) | undefined,
  ) {
    this.#ports = ports;
    this.#save = save;
  }

  get #withRows(): boolean {
    return this.#save !== undefined;
  }

  /** Takes rows from elsewhere, unless it has some. */
  seed(initial: InitialData): void {
    if (this.room === undefined) {
      this.#initial ??= initial;
    }
  }

  /** @returns no longer watches */
  watch(): () => void {
    this.#watchers += 1;
    this.#ports.never(this.#timer);
    if (this.room === undefined) {
      this.#enter();
    }
    let watching = true;
    return () => {
      if (watching) {
        watching = false;
        this.#watchers -= 1;
        if (this.#watchers === 0) {
          this.#timer = this.#ports.later(() => this.#leave(), this.#ports.lingerMs);
        }
      }
    };
  }

  subscribe(onChange: () => void): () => void {
    const listener = (): void => onChange();
    this.#listeners.add(listener);
    const unwatch = this.watch();
    return () => {
      this.#listeners.delete(listener);
      unwatch();
    };
  }

  listen(onItem: (item: StreamItem) => void): () => void {
    this.#events.add(onItem);
    const unwatch = this.watch();
    return () => {
      this.#events.delete(onItem);
      unwatch();
    };
  }

  snapshot(): RoomSnapshot {
    this.#cached ??= this.#look();
    return this.#cached;
  }

  /** Everybody looks again. */
  changed(): void {
    this.#cached = undefined;
    for (const listener of [...this.#listeners]) {
      listener();
    }
  }

  async *iterate(signal: AbortSignal | undefined): AsyncGenerator<StreamItem, void, undefined> {
    const queue = new Queue<StreamItem>(MAX_WAITING, () => this.#resync());
    const unlisten = this.listen((item) => queue.push(item));
    const look = (): void => {
      const { status, error } = this.snapshot();
      if (status === 'error') {
        queue.end(new TaskwireClientError(error!.code, error!.message));
      }
    };
    const unsubscribe = this.subscribe(look);
    const stop = (): void => queue.end();
    signal?.addEventListener('abort', stop);
    try {
      look();
      if (!signal?.aborted) {
        yield* queue;
      }
    } finally {
      signal?.removeEventListener('abort', stop);
      unsubscribe();
      unlisten();
    }
  }

  #look(): RoomSnapshot {
    const { room } = this;
    const { engine } = this.#ports;
    const tasks = room?.rows && [...room.rows.values()].sort((a, b) => a.task_id - b.task_id);
    const ended = engine.state === 'closed' ? CLOSED : engine.state === 'failed' ? engine.reason : undefined;
    const error = room?.error ?? ended;
    if (room === undefined || (room.position === undefined && error === undefined)) {
      return LOADING;
    }
    const { position, state, truncated } = room;
    return {
      status: error !== undefined ? 'error' : state === 'live' ? 'live' : 'stale',
      tasks: tasks ?? [],
      truncated,
      ...(position === undefined ? {} : { position }),
      ...(error === undefined ? {} : { error: { code: error.code, message: error.message } }),
    };
  }

  #resync(): Resync {
    const { tasks, position } = this.snapshot();
    return { type: 'RESYNC', tasks, position: position! };
  }

  #tell(item: StreamItem): void {
    for (const listener of [...this.#events]) {
      listener(item);
    }
  }

  #enter(): void {
    const room: Room = new Room(
      this.name,
      {
        event: (event) => {
          this.#cached = undefined;
          this.#tell({ ...event, position: room.position! });
        },
        resync: () => {
          this.#cached = undefined;
          this.#tell(this.#resync());
        },
        changed: () => this.changed(),
        held: () => this.#ports.engine.hold(),
      },
      this.#withRows,
    );
    this.#initial ??= this.#withRows ? this.#ports.load(this.name) : undefined;
    const initial = this.#initial;
    if (initial !== undefined) {
      room.start(initial.position, this.#withRows ? initial.tasks : undefined, initial.truncated === true);
    }
    this.room = room;
    this.#ports.engine.add(room);
  }

  #leave(): void {
    const { room } = this;
    if (room !== undefined) {
      this.#save?.(this);
      this.room = this.#initial = this.#cached = undefined;
      this.#ports.engine.delete(room);
      this.#ports.left(this);
    }
  }
}

const CLOSED: ErrorBody = { code: 'CLOSED', message: 'The client was closed' };
