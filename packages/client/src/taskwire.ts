import type { Backoff } from './backoff.js';
import { createEngine, type Engine, type Surroundings } from './engine.js';
import type { ConnectionState } from './machine.js';
import { watchPage } from './page.js';
import type { ErrorBody, Position, TaskRow } from './protocol.js';
import {
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
import type { Credential, LinkEnd, Transport } from './transport.js';
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
   * Resolves with the first state for which the predicate holds. Each event is looked at by itself. Which states count:
   * - of a task: all that it has had since it was made, as far as the log reaches back
   * - of a handle with `initialData`: those rows, and everything after their position
   * - of a job or a user otherwise: that of now, and everything after it
   * @param options `since`: states before this position do not count. Give the position of an answer to a write
   * @throws TaskwireClientError when the room is refused for good; the signal's reason when that is aborted
   */
  until(
    predicate: (subject: Subject) => boolean,
    options?: { since?: Position; signal?: AbortSignal },
  ): Promise<Subject>;
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
const CLOSED: LinkEnd = { later: false, code: 'CLOSED', message: 'The client was closed' };
/** A JSON web token. */
const TOKEN = /^[\w-]+\.[\w-]+\.[\w-]+$/;
/** Before everything: a task has had no state there. */
const BEGINNING: InitialData = { position: { seq: 0, epoch: '' }, tasks: [] };
/** Rooms of a connection aside, of the 256 that the server takes. */
const MAX_ASIDE = 200;

const HERE: Surroundings = {
  now: () => performance.now(),
  random: Math.random,
  setTimeout,
  clearTimeout: clearTimeout as (timer: unknown) => void,
};

/**
 * Makes a client. It connects when something is watched, comes back by itself without end, resumes each room from its
 * position, and ends the connection when nothing is watched any more.
 */
export function createTaskwire(options: TaskwireOptions): Taskwire {
  const { surroundings = HERE, storage, storageKey = 'taskwire', token, apiKey } = options;
  const { url, backoff, transport = websocket(), lingerMs = 1_000, silenceMs = 25_000, patienceMs = 20_000 } = options;
  const { now, setTimeout, clearTimeout } = surroundings;
  const stores = new Map<string, RoomStore>();
  const watchers = new Set<() => void>();
  const engines = new Set<Engine>();
  let looked: ConnectionSnapshot | undefined;

  const credential = async (): Promise<Credential> => {
    if (typeof token !== 'function') {
      return { token, apiKey };
    }
    const fresh = await token();
    // The page of an error, say, which was taken for one: the next time it is there again.
    if (!TOKEN.test(fresh)) {
      throw new Error('No token');
    }
    return { token: fresh };
  };

  const makeEngine = (changed: () => void, by: Transport): Engine => {
    const engine = createEngine({
      url,
      transport: by,
      surroundings,
      backoff: { baseMs: 500, capMs: 30_000, ...backoff },
      credential,
      silenceMs,
      patienceMs,
      changed,
    });
    engines.add(engine);
    return engine;
  };

  const save = (store: RoomStore): void => {
    const snapshot = store.snapshot();
    if (storage !== undefined && snapshot.position !== undefined) {
      try {
        storage.setItem(`${storageKey} ${store.name}`, JSON.stringify(snapshot));
      } catch {
        // It is full or forbidden: the next page begins with a snapshot.
      }
    }
  };

  const portsOf = (engine: Engine, left: (store: RoomStore) => void): RoomPorts => ({
    engine,
    lingerMs,
    later: setTimeout,
    never: clearTimeout,
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
  }, transport);
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

  /** Connections aside: each has rooms of one kind, no two of which share an event. */
  const asides: Array<{ readonly kind: string; readonly engine: Engine; readonly names: Set<string> }> = [];

  /**
   * A room that begins before now. What a connection was sent for one room is not sent again for another, so it stands on a
   * connection aside, where nothing of it can have passed by.
   */
  const aside = (name: string, begin: InitialData): RoomStore => {
    const [kind] = name.split(':') as [string];
    let own = asides.find((one) => one.kind === kind && !one.names.has(name) && one.names.size < MAX_ASIDE);
    if (own === undefined) {
      own = { kind, engine: makeEngine(() => {}, transport.alone ?? transport), names: new Set() };
      asides.push(own);
    }
    const { engine, names } = own;
    names.add(name);
    const left = (): void => {
      names.delete(name);
      setTimeout(() => names.size > 0 || engine.go('unwanted'), lingerMs);
    };
    const store = createRoomStore(name, { ...portsOf(engine, left), alone: true, lingerMs: 0, save: () => {} });
    store.seed(begin);
    return store;
  };

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
      events: async function* ({ since, signal } = {}) {
        // What is iterated needs no rows: of what changes some are known.
        yield* (since ? aside(name, { position: since, tasks: [], truncated: true }) : store()).iterate(signal);
      },
      until: (predicate, { since, signal } = {}) =>
        settle(signal, (resolve, reject) => {
          const begin = initialData ?? (name.startsWith('task:') ? BEGINNING : undefined);
          const source = begin === undefined ? store() : aside(name, begin);
          /** The state before `since`, which is that of `since` when the next one is later. */
          let before: Subject | undefined;
          const test = (subject: Subject | undefined): void => {
            if (subject !== undefined && predicate(subject)) {
              resolve(subject);
            }
          };
          const look: Listener = (item) => {
            const { status, position, tasks, error } = source.snapshot();
            const subject = position && subjectOf(tasks);
            if (since !== undefined && position?.epoch === since.epoch && position.seq < since.seq) {
              before = subject;
            } else {
              test(position?.seq === since?.seq || item?.type === 'RESYNC' ? undefined : before);
              before = undefined;
              test(subject);
            }
            if (status === 'error') {
              reject(new TaskwireClientError(error!));
            }
          };
          const unlisten = source.listen(look);
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
        nextTryAt: nextTryAt && Date.now() + nextTryAt - now(),
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
          const waits = [...stores.values()].some(({ room }) => {
            const there = room?.state === 'live' || room?.state === 'refused';
            // An epoch belongs to one stream: rooms of other users have another one.
            const behind = room?.position?.epoch === write.epoch && room.position.seq < write.seq;
            return room !== undefined && (!there || behind);
          });
          if (!waits) {
            resolve();
          } else if (engine.state === 'closed') {
            reject(new TaskwireClientError(engine.reason!));
          } else {
            // Of a room in which nothing happens only the server knows how far it has come.
            engine.ping();
            timer = setTimeout(look, LOOK_MS);
          }
        };
        look();
        return () => clearTimeout(timer);
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
      each((one) => one.go('close', CLOSED))();
    },
  };
}

/** A promise that ends with a signal. @param start gets both ways to settle it, returns how to clean up */
async function settle<T>(
  signal: AbortSignal | undefined,
  start: (resolve: (value: T) => void, reject: (error: unknown) => void) => () => void,
): Promise<T> {
  const end = new AbortController();
  let stop = (): void => {};
  try {
    return await new Promise<T>((resolve, reject) => {
      signal?.throwIfAborted();
      signal?.addEventListener('abort', () => reject(signal.reason), end);
      stop = start(resolve, reject);
    });
  } finally {
    end.abort();
    stop();
  }
}
