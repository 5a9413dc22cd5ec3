import type { Backoff } from './backoff.js';
import { createEngine, type Engine, type Surroundings } from './engine.js';
import type { ConnectionState } from './machine.js';
import { watchPage } from './page.js';
import type { ErrorBody, Position, TaskRow } from './protocol.js';
import {
  CLOSED,
  createRoomStore,
  type InitialData,
  type Listener,
  LOADING,
  type RoomPorts,
  type RoomSnapshot,
  type RoomStore,
  type StreamItem,
  TaskwireClientError,
} from './room-store.js';
import type { Credential, Transport } from './transport.js';
import { websocket } from './websocket.js';

/** What is used of a `Storage`. */
export interface KeyValueStorage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
}

/** What `createTaskwire` takes. */
export interface TaskwireOptions {
  /** Address of the server, such as `https://tasks.example.com`. */
  readonly url: string;
  /** A token, or what gets one: called before each connection, so that it is always fresh. */
  readonly token?: string | (() => string | Promise<string>);
  /** An API key instead, for programs. A page's visitor could read it there. */
  readonly apiKey?: string | undefined;
  /** How to reach the server: `websocket()` unless something else is given. */
  readonly transport?: Transport;
  /** Keeps rows and positions over reloads, in `localStorage` or `sessionStorage`. */
  readonly storage?: KeyValueStorage;
  /** Begins the names in `storage` (`taskwire`). Name the user in it where one browser has several. */
  readonly storageKey?: string;
  /** How long a room is kept after its last watcher, in milliseconds (1,000): a page that draws anew does not ask anew. */
  readonly lingerMs?: number;
  /** Pauses between tries: full jitter below a bound that doubles from `baseMs` (500) to `capMs` (30,000) milliseconds. */
  readonly backoff?: Partial<Backoff>;
  /** How long the server may be silent before it is asked whether it is there, in milliseconds (25,000). */
  readonly silenceMs?: number;
  /** How long it may take to answer then, or to take a connection, in milliseconds (20,000). */
  readonly patienceMs?: number;
  /** Time and chance, for tests. */
  readonly surroundings?: Surroundings;
}

/** What the connection is doing. */
export interface ConnectionSnapshot {
  /** `idle`: nobody watches anything. `failed`: refused for good, call `retry()` when something has changed. */
  readonly state: ConnectionState;
  /** Why it is `waiting` or `failed`. */
  readonly reason?: ErrorBody | undefined;
  /** When the next try is, in milliseconds since 1970, while `waiting`. */
  readonly nextTryAt?: number | undefined;
}

/** Something that changes: what `useSyncExternalStore` takes. */
export interface Store<T> {
  /** Calls back after every change. @returns stops that */
  subscribe(onChange: () => void): () => void;
  /** The same object until something changes. */
  getSnapshot(): T;
}

/** One room. Nothing is asked for until somebody subscribes, iterates or waits. */
export interface RoomHandle<Subject> extends Store<RoomSnapshot> {
  /** `job:123`, say. */
  readonly name: string;
  /** What was there before anything was asked for: the initial data, as when the page was rendered on a server. */
  getServerSnapshot(): RoomSnapshot;
  /**
   * Calls back with each event, after it was applied, and without one when everything that came together has been applied.
   * @returns stops that
   */
  listen(listener: Listener): () => void;
  /**
   * The room's events from now on or, with `since`, from after that position. Where events cannot be had any more, a
   * `RESYNC` with the rows of now stands for them: there is no silent gap.
   * @throws TaskwireClientError when the room is refused for good
   */
  events(options?: { since?: Position; signal?: AbortSignal }): AsyncGenerator<StreamItem, void, undefined>;
  /**
   * Resolves when the predicate holds: for what is there now, or after any later event, each looked at by itself.
   * @throws TaskwireClientError when the room is refused for good; the signal's reason when that is aborted
   */
  until(predicate: (subject: Subject) => boolean, options?: { signal?: AbortSignal }): Promise<Subject>;
}

/** A client: one connection for everything that is watched through it. */
export interface Taskwire {
  /** All tasks of a job. */
  job(id: string | number | bigint, options?: RoomOptions): RoomHandle<readonly TaskRow[]>;
  /** One task. */
  task(id: number | string, options?: RoomOptions): RoomHandle<TaskRow>;
  /** All tasks of a user. */
  user(id: string, options?: RoomOptions): RoomHandle<readonly TaskRow[]>;
  /**
   * Resolves when everything that is watched shows a write: give the answer of the REST call. Rooms of other users are not
   * waited for.
   * @throws the signal's reason when that is aborted; TaskwireClientError when the client is closed
   */
  caughtUp(write: Position, options?: { signal?: AbortSignal }): Promise<void>;
  readonly connection: Store<ConnectionSnapshot> & ConnectionSnapshot;
  /** Asks again for what was refused for good, and at once where it waits. */
  retry(): void;
  /** Ends the connection until `wake()`, as when an app goes into the background. Rows and positions stay. */
  sleep(): void;
  wake(): void;
  /** Ends everything. */
  close(): void;
}

/** Rows that are known before the room has answered. */
export interface RoomOptions {
  readonly initialData?: InitialData | undefined;
}

/** How often the server is asked about a write that is not there yet, in milliseconds. */
const LOOK_MS = 100;

const HERE: Surroundings = {
  now: () => performance.now(),
  random: Math.random,
  setTimeout: (work, ms) => setTimeout(work, ms),
  clearTimeout: (timer) => clearTimeout(timer as ReturnType<typeof setTimeout>),
};

/**
 * Makes a client. It connects when something is watched, comes back by itself without end, resumes each room from its
 * position, and ends the connection when nothing is watched any more.
 */
export function createTaskwire(options: TaskwireOptions): Taskwire {
  const { surroundings = HERE, storage, storageKey = 'taskwire', token, apiKey } = options;
  const stores = new Map<string, RoomStore>();
  const watchers = new Set<() => void>();
  const engines = new Set<Engine>();
  let looked: ConnectionSnapshot | undefined;

  const credential = (): Credential | Promise<Credential> => {
    const given = typeof token === 'function' ? token() : token;
    return given instanceof Promise ? given.then((fresh) => ({ token: fresh })) : { token: given, apiKey };
  };

  const makeEngine = (changed: () => void): Engine => {
    const engine = createEngine({
      url: options.url,
      transport: options.transport ?? websocket(),
      surroundings,
      backoff: { baseMs: 500, capMs: 30_000, ...options.backoff },
      credential,
      silenceMs: options.silenceMs ?? 25_000,
      patienceMs: options.patienceMs ?? 20_000,
      changed,
    });
    engines.add(engine);
    return engine;
  };

  const save = (store: RoomStore): void => {
    const { position, tasks, truncated } = store.snapshot();
    if (storage !== undefined && position !== undefined) {
      try {
        storage.setItem(`${storageKey} ${store.name}`, JSON.stringify({ position, tasks, truncated }));
      } catch {
        // It is full or forbidden: the next page begins with a snapshot.
      }
    }
  };

  const portsOf = (engine: Engine, left: (store: RoomStore) => void): RoomPorts => ({
    engine,
    lingerMs: options.lingerMs ?? 1_000,
    later: surroundings.setTimeout,
    never: surroundings.clearTimeout,
    left,
    save,
    load: (name) => {
      try {
        return JSON.parse(storage?.getItem(`${storageKey} ${name}`) ?? '') as InitialData;
      } catch {
        return undefined;
      }
    },
  });

  const engine = makeEngine(() => {
    looked = undefined;
    for (const watcher of [...watchers]) {
      watcher();
    }
  });
  const ports = portsOf(engine, (store) => {
    stores.delete(store.name);
    if (stores.size === 0) {
      engine.go('unwanted');
    }
  });
  const storeOf = (name: string): RoomStore => {
    let store = stores.get(name);
    if (store === undefined) {
      store = createRoomStore(name, ports);
      stores.set(name, store);
    }
    return store;
  };

  const each = (work: (engine: Engine) => void) => (): void => {
    for (const one of engines) {
      work(one);
    }
  };
  const sleep = each((one) => one.go('sleep'));
  const wake = each((one) => {
    one.go('wake');
    one.check();
  });
  const unwatch = watchPage({
    sleep,
    wake,
    online: each((one) => {
      one.go('online');
      one.check();
    }),
    visible: each((one) => one.check()),
    hidden: () => stores.forEach(save),
  });

  /** Events from a position: on a connection of its own, where nothing of the room can have passed by before. */
  async function* eventsSince(name: string, since: Position, signal?: AbortSignal) {
    const own = makeEngine(() => {});
    const none = (): void => {};
    const store = createRoomStore(name, { ...portsOf(own, none), save: none }, false);
    store.seed({ position: since, tasks: [] });
    try {
      yield* store.iterate(signal);
    } finally {
      own.go('close');
      engines.delete(own);
    }
  }

  const handle = <Subject>(
    name: string,
    { initialData }: RoomOptions,
    subjectOf: (tasks: readonly TaskRow[]) => Subject | undefined,
  ): RoomHandle<Subject> => {
    const store = (): RoomStore => {
      const found = storeOf(name);
      if (initialData !== undefined) {
        found.seed(initialData);
      }
      return found;
    };
    const before: RoomSnapshot =
      initialData === undefined ? LOADING : { status: 'stale', truncated: false, ...initialData };
    return {
      name,
      listen: (listener) => store().listen(listener),
      subscribe: (onChange) => store().listen((item) => item ?? onChange()),
      getSnapshot: () => stores.get(name)?.snapshot() ?? before,
      getServerSnapshot: () => before,
      events: ({ since, signal } = {}) => {
        const now = stores.get(name)?.snapshot();
        const here = now?.status === 'live' && now.position?.seq === since?.seq && now.position?.epoch === since?.epoch;
        return since === undefined || here ? store().iterate(signal) : eventsSince(name, since, signal);
      },
      until: (predicate, { signal } = {}) =>
        settle(signal, (resolve, reject) => {
          const look = (): void => {
            const { status, position, tasks, error } = store().snapshot();
            const subject = position && subjectOf(tasks);
            if (subject !== undefined && predicate(subject)) {
              resolve(subject);
            } else if (status === 'error') {
              reject(new TaskwireClientError(error!.code, error!.message));
            }
          };
          const unlisten = store().listen(look);
          look();
          return unlisten;
        }),
    };
  };

  const look = (): ConnectionSnapshot => {
    if (looked === undefined) {
      const { state, reason, nextTryAt } = engine;
      looked = {
        state,
        reason,
        nextTryAt: nextTryAt && Date.now() + nextTryAt - surroundings.now(),
      };
    }
    return looked;
  };

  return {
    job: (id, room = {}) => handle(`job:${id}`, room, (tasks) => tasks),
    task: (id, room = {}) => handle(`task:${id}`, room, (tasks) => tasks[0]),
    user: (id, room = {}) => handle(`user:${id}`, room, (tasks) => tasks),
    caughtUp: (write, { signal } = {}) =>
      settle(signal, (resolve, reject) => {
        let timer: unknown;
        const look = (): void => {
          const behind = [...stores.values()].some(({ room }) => {
            const there = room?.state === 'live' || room?.state === 'refused';
            return room !== undefined && (!there || isBehind(room.position, write));
          });
          if (!behind) {
            resolve();
          } else if (engine.state === 'closed') {
            reject(new TaskwireClientError(CLOSED.code, CLOSED.message));
          } else {
            // Of a room in which nothing happens only the server knows how far it has come.
            engine.ping();
            timer = surroundings.setTimeout(look, LOOK_MS);
          }
        };
        look();
        return () => surroundings.clearTimeout(timer);
      }),
    connection: {
      subscribe: (onChange) => {
        const watcher = (): void => onChange();
        watchers.add(watcher);
        return () => watchers.delete(watcher);
      },
      getSnapshot: look,
      get state() {
        return look().state;
      },
      get reason() {
        return look().reason;
      },
      get nextTryAt() {
        return look().nextTryAt;
      },
    },
    retry: each((one) => one.retry()),
    sleep,
    wake,
    close: () => {
      unwatch();
      stores.forEach(save);
      each((one) => one.go('close'))();
    },
  };
}

/** Whether a position is one of the write's stream and lies before the write. An epoch belongs to one stream. */
const isBehind = (position: Position | undefined, write: Position): boolean =>
  position?.epoch === write.epoch && position.seq < write.seq;

/** A promise that ends with a signal. @param start gets both ways to settle it, returns how to clean up */
async function settle<T>(
  signal: AbortSignal | undefined,
  start: (resolve: (value: T) => void, reject: (error: unknown) => void) => () => void,
): Promise<T> {
  signal?.throwIfAborted();
  let stop = (): void => {};
  let abort = (): void => {};
  try {
    return await new Promise<T>((resolve, reject) => {
      abort = () => reject(signal!.reason);
      signal?.addEventListener('abort', abort);
      stop = start(resolve, reject);
    });
  } finally {
    signal?.removeEventListener('abort', abort);
    stop();
  }
}
