'use client';

import {
  createContext,
  createElement,
  type ReactNode,
  useContext,
  useEffect,
  useMemo,
  useRef,
  useSyncExternalStore,
} from 'react';
import type { Position, TaskRow } from './protocol.js';
import { type InitialData, LOADING, type RoomSnapshot, type StreamItem } from './room-store.js';
import type { ConnectionSnapshot, RoomHandle, Store, Taskwire } from './taskwire.js';

const Context = createContext<Taskwire | undefined>(undefined);

/** Gives a client to the hooks below it: one connection for all of them. */
export function TaskwireProvider(props: { readonly client: Taskwire; readonly children?: ReactNode }) {
  return createElement(Context.Provider, { value: props.client }, props.children);
}

/**
 * The client of the provider above.
 * @throws Error without a provider
 */
export function useTaskwire(): Taskwire {
  const client = useContext(Context);
  if (client === undefined) {
    throw new Error('Wrap the component in <TaskwireProvider client={createTaskwire({ url })}>');
  }
  return client;
}

/** What the hooks of rooms take. */
export interface RoomHookOptions<Seen, Selected = Seen> {
  /** `false`: nothing is asked for (true). */
  readonly enabled?: boolean | undefined;
  /** Rows to begin with, and their position: those that the server rendered. Looked at once for each id. */
  readonly initialData?: InitialData | undefined;
  /** What the component needs of it: it draws anew only when that is another value (objects and lists: one level deep). */
  readonly select?: ((snapshot: Seen) => Selected) | undefined;
  /** Draw anew at most once in so many milliseconds (0: after every change). The last state is always drawn. */
  readonly throttleMs?: number | undefined;
}

/** A room of one task. */
export interface TaskSnapshot extends RoomSnapshot {
  /** The task; undefined while it loads and when it is gone. */
  readonly task: TaskRow | undefined;
}

type Id = string | number | bigint;

/** All tasks of a job, as they are now. */
export function useJobTasks<Selected = RoomSnapshot>(
  id: Id,
  options: RoomHookOptions<RoomSnapshot, Selected> = {},
): Selected {
  const client = useTaskwire();
  const handle = useRoom(options, `job:${id}`, () => client.job(id, options), client);
  return useSelected(handle, options, options.select ?? (same as (snapshot: RoomSnapshot) => Selected));
}

/** One task, as it is now. */
export function useTask<Selected = TaskSnapshot>(
  id: number | string,
  options: RoomHookOptions<TaskSnapshot, Selected> = {},
): Selected {
  const client = useTaskwire();
  const handle = useRoom(options, `task:${id}`, () => client.task(id, options), client);
  const { select = same as (snapshot: TaskSnapshot) => Selected } = options;
  return useSelected(handle, options, (snapshot) => select({ ...snapshot, task: snapshot.tasks[0] }));
}

/** The name of a room. */
export type RoomName = `job:${string}` | `task:${string}` | `user:${string}`;

const handleOf = (client: Taskwire, name: RoomName): RoomHandle<unknown> => {
  const id = name.slice(name.indexOf(':') + 1);
  return client[name.slice(0, -id.length - 1) as 'job' | 'task' | 'user'](id);
};

/**
 * Calls back with each event of a room while the component is there, and with a `RESYNC` where events cannot be had.
 * @param options `since`: begin after this position, looked at when the component appears
 */
export function useTaskEvents(
  name: RoomName,
  onItem: (item: StreamItem) => void,
  options: {
    readonly enabled?: boolean;
    readonly since?: Position;
    /** The room is refused for good. */
    readonly onError?: (error: unknown) => void;
  } = {},
): void {
  const client = useTaskwire();
  const { enabled = true } = options;
  const last = useLast({ onItem, ...options });
  useEffect(() => {
    if (!enabled) {
      return;
    }
    const stop = new AbortController();
    const { since } = last.current;
    const items = handleOf(client, name).events({ signal: stop.signal, ...(since === undefined ? {} : { since }) });
    void (async () => {
      try {
        for await (const item of items) {
          if (stop.signal.aborted) {
            return;
          }
          last.current.onItem(item);
        }
      } catch (error) {
        last.current.onError?.(error);
      }
    })();
    return () => stop.abort();
  }, [client, name, enabled, last]);
}

/** A task went from one status to another. */
export interface TaskTransition {
  readonly from: string;
  readonly to: string;
  /** Where in the user's stream. After an outage that the log does not cover, states between the two may be left out. */
  readonly position: Position;
}

/** Calls back when a task gets another status while the component is there. */
export function useTaskTransition(
  id: number | string,
  onTransition: (transition: TaskTransition) => void,
  options: {
    readonly enabled?: boolean;
    /** Only from this status. */
    readonly from?: string;
    /** Only to this status. */
    readonly to?: string;
  } = {},
): void {
  const client = useTaskwire();
  const { enabled = true } = options;
  const last = useLast({ onTransition, ...options });
  useEffect(() => {
    if (!enabled) {
      return;
    }
    const handle = client.task(id);
    let before: string | undefined;
    const see = (to: string | undefined, position: Position | undefined): void => {
      const from = before;
      before = to ?? before;
      const { current } = last;
      if (from !== undefined && to !== undefined && from !== to && position !== undefined) {
        if ((current.from ?? from) === from && (current.to ?? to) === to) {
          current.onTransition({ from, to, position });
        }
      }
    };
    return handle.listen((item) => {
      if (item === undefined) {
        const { tasks, position } = handle.getSnapshot();
        see(tasks[0]?.task_status, position);
      } else if (item.type === 'RESYNC') {
        see(item.tasks[0]?.task_status, item.position);
      } else {
        see(item.data.changes.task_status, item.position);
      }
    });
  }, [client, id, enabled, last]);
}

/** What the connection is doing: to say that the rows are those of before, and when the next try is. */
export function useConnection(): ConnectionSnapshot {
  const { connection } = useTaskwire();
  return useSyncExternalStore(connection.subscribe, connection.getSnapshot, () => IDLE);
}

const IDLE: ConnectionSnapshot = { state: 'idle' };
type Shown = Store<RoomSnapshot> & Pick<RoomHandle<unknown>, 'getServerSnapshot'>;

const NOTHING: Shown = {
  subscribe: () => () => {},
  getSnapshot: () => LOADING,
  getServerSnapshot: () => LOADING,
};
const same = <T>(value: T): T => value;

/** What was given last, for callbacks: they need not be the same function in each drawing. */
function useLast<T>(value: T): { readonly current: T } {
  const last = useRef(value);
  useEffect(() => {
    last.current = value;
  });
  return last;
}

/** The store of a room; the same one as long as client and name are. */
function useRoom(
  { enabled = true }: RoomHookOptions<never, unknown>,
  name: string,
  make: () => Shown,
  client: Taskwire,
): Shown {
  const kept = useRef<{ client: Taskwire; name: string; store: Shown } | undefined>(undefined);
  if (kept.current?.client !== client || kept.current.name !== name) {
    kept.current = { client, name, store: make() };
  }
  return enabled ? kept.current.store : NOTHING;
}

function useSelected<Selected>(
  store: Shown,
  { throttleMs = 0 }: RoomHookOptions<never, unknown>,
  select: (snapshot: RoomSnapshot) => Selected,
): Selected {
  const paced = useMemo(() => (throttleMs > 0 ? throttled(store, throttleMs) : store), [store, throttleMs]);
  return useSyncExternalStore(
    paced.subscribe,
    useSelection(paced.getSnapshot, select),
    useSelection(store.getServerSnapshot, select),
  );
}

/** Reads the selected part: the same value as long as it is equal, whatever function selects it. */
function useSelection<Selected>(look: () => RoomSnapshot, select: (snapshot: RoomSnapshot) => Selected) {
  const seen = useRef<{ snapshot: RoomSnapshot; value: Selected; select: unknown } | undefined>(undefined);
  return (): Selected => {
    const snapshot = look();
    const before = seen.current;
    if (before?.snapshot === snapshot && before.select === select) {
      return before.value;
    }
    const value = select(snapshot);
    const kept = before !== undefined && isEqual(before.value, value) ? before.value : value;
    seen.current = { snapshot, value: kept, select };
    return kept;
  };
}

/** Whether two values are the same, or have the same parts. */
function isEqual(a: unknown, b: unknown): boolean {
  if (Object.is(a, b)) {
    return true;
  }
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) {
    return false;
  }
  if (Object.getPrototypeOf(a) !== Object.getPrototypeOf(b)) {
    return false;
  }
  const keys = Object.keys(a);
  const parts = b as Record<string, unknown>;
  return (
    keys.length === Object.keys(b).length &&
    keys.every((key) => Object.hasOwn(parts, key) && Object.is((a as Record<string, unknown>)[key], parts[key]))
  );
}

/** A store that tells of changes at most once in `ms`, of the last one always. */
function throttled<T>(store: Store<T>, ms: number): Store<T> {
  let shown = store.getSnapshot();
  return {
    getSnapshot: () => shown,
    subscribe: (onChange) => {
      let timer: ReturnType<typeof setTimeout> | undefined;
      const show = (): void => {
        if (store.getSnapshot() !== shown) {
          shown = store.getSnapshot();
          timer = setTimeout(() => {
            timer = undefined;
            show();
          }, ms);
          onChange();
        }
      };
      const stop = store.subscribe(() => timer === undefined && show());
      // It may have changed before somebody listened.
      show();
      return () => {
        clearTimeout(timer);
        stop();
      };
    },
  };
}
