import type { Engine } from './engine.js';
import type { ErrorBody, Position, TaskEvent, TaskRow } from './protocol.js';
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
  readonly position?: Position | undefined;
  readonly error?: ErrorBody | undefined;
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
  /** A code of the error table, or `CLOSED`. */
  readonly code: string;
  constructor({ code, message }: ErrorBody) {
    super(message);
    this.code = code;
  }
}

/** Events that may wait for who iterates; behind that a `RESYNC` stands for them. */
const MAX_WAITING = 10_000;
export const LOADING: RoomSnapshot = { status: 'loading', tasks: [], truncated: false };

export interface RoomPorts {
  readonly engine: Engine;
  /** No other room of the engine shares an event with this one: nothing of it passes by unseen, whenever it is asked for. */
  readonly alone?: boolean;
  /** How long a room that nobody watches is kept, in milliseconds. */
  readonly lingerMs: number;
  readonly later: (work: () => void, ms: number) => unknown;
  readonly never: (timer: unknown) => void;
  /** The room is left. */
  readonly left: (store: RoomStore) => void;
  /** Rows of an earlier page. */
  readonly load: (name: string) => InitialData | undefined;
  /** Keeps the rows for a later page. */
  readonly save: (store: RoomStore) => void;
}

/** Called with each event or new start, and without anything when all that came together has been applied. */
export type Listener = (item?: StreamItem) => void;

/** One room as many see it: it is asked for with the first listener and left after the last. */
export interface RoomStore {
  readonly name: string;
  /** The room, while it is asked for. */
  readonly room: Room | undefined;
  /** Takes rows from elsewhere, unless it has some. */
  seed(initial: InitialData): void;
  /** @returns no longer listens */
  listen(listener: Listener): () => void;
  snapshot(): RoomSnapshot;
  iterate(signal: AbortSignal | undefined): AsyncGenerator<StreamItem, void, undefined>;
}

export function createRoomStore(name: string, ports: RoomPorts): RoomStore {
  const { engine, alone, lingerMs, later, never, left, load, save } = ports;
  const listeners = new Set<Listener>();
  let room: Room | undefined;
  let timer: unknown;
  let cached: RoomSnapshot | undefined;
  let initial: InitialData | undefined;

  const tell: Listener = (item) => {
    cached = undefined;
    for (const listener of [...listeners]) {
      listener(item);
    }
  };

  const snapshot = (): RoomSnapshot => {
    cached ??= look();
    return cached;
  };

  const look = (): RoomSnapshot => {
    const error = room?.error ?? (/closed|failed/.test(engine.state) ? engine.reason : undefined);
    if (room === undefined || (room.position === undefined && error === undefined)) {
      return LOADING;
    }
    const { position, state, truncated, rows } = room;
    return {
      status: error !== undefined ? 'error' : state === 'live' ? 'live' : 'stale',
      tasks: [...rows.values()].sort((a, b) => a.task_id - b.task_id),
      truncated,
      position,
      error,
    };
  };

  const resync = (): Resync => ({ type: 'RESYNC', tasks: snapshot().tasks, position: snapshot().position! });

  const enter = (): void => {
    const entered = new Room(name, {
      event: (event) => tell({ ...event, position: entered.position! }),
      resync: () => {
        cached = undefined;
        tell(resync());
      },
      changed: () => tell(),
      held: engine.hold,
    });
    initial ??= load(name);
    if (initial !== undefined) {
      entered.start(initial.position, initial.tasks, initial.truncated);
    }
    if (alone) {
      entered.opened();
    }
    room = entered;
    engine.add(entered);
  };

  const store: RoomStore = {
    name,
    get room() {
      return room;
    },
    seed: (given) => {
      if (room === undefined) {
        initial ??= given;
      }
    },
    listen: (given) => {
      const listener: Listener = (item) => given(item);
      listeners.add(listener);
      never(timer);
      if (room === undefined) {
        enter();
      }
      return () => {
        if (listeners.delete(listener) && listeners.size === 0) {
          timer = later(() => {
            save(store);
            engine.delete(room!);
            room = initial = cached = undefined;
            left(store);
          }, lingerMs);
        }
      };
    },
    snapshot,
    async *iterate(signal) {
      let waiting: StreamItem[] = [];
      let ended = false;
      let failure: ErrorBody | undefined;
      let wake = (): void => {};
      const stop = (): void => {
        ended = true;
        wake();
      };
      const hear: Listener = (item) => {
        const { status, error } = snapshot();
        if (item !== undefined) {
          if (waiting.push(item) > MAX_WAITING) {
            waiting = [resync()];
          }
          wake();
        } else if (status === 'error') {
          failure = error;
          stop();
        }
      };
      const unlisten = store.listen(hear);
      signal?.addEventListener('abort', stop);
      try {
        hear();
        while (!signal?.aborted) {
          if (waiting.length > 0) {
            yield waiting.shift()!;
          } else if (!ended) {
            await new Promise<void>((resolve) => {
              wake = resolve;
            });
          } else if (failure !== undefined) {
            throw new TaskwireClientError(failure);
          } else {
            return;
          }
        }
      } finally {
        signal?.removeEventListener('abort', stop);
        unlisten();
      }
    },
  };
  return store;
}
