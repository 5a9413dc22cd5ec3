import { createEngine, type Engine } from './engine.js';
import type { SnapshotMessage, SubscribeOutcome, SubscribeRequest } from './protocol.js';
import { createRoomStore, type RoomStore, type StreamItem } from './room-store.js';
import type { Answer, Credential, Incoming, LinkEnd, Transport } from './transport.js';

/** What is used of `navigator.locks`. */
export interface Locks {
  request(name: string, options: { signal?: AbortSignal }, work: () => Promise<unknown>): Promise<unknown>;
}

/** What `tabs` takes. */
export interface TabsOptions {
  /** How the leading tab reaches the server. */
  readonly transport: Transport;
  /** Tabs of one name share a connection, and must have the same credentials: name the user. */
  readonly name: string;
  /** `navigator.locks` unless something else is given. */
  readonly locks?: Locks;
}

/** A message between tabs: to the leader, to one link, or to all. */
type Note =
  | { readonly to: 'leader'; readonly from: string; readonly op: 'open' }
  | { readonly to: 'leader'; readonly from: string; readonly op: 'close' }
  | {
      readonly to: 'leader';
      readonly from: string;
      readonly op: 'send';
      readonly type: string;
      readonly data: unknown;
      readonly id: number;
    }
  | { readonly to: 'all'; readonly op: 'hello' }
  | { readonly to: string; readonly op: 'opened' }
  | { readonly to: string; readonly op: 'message'; readonly message: Incoming }
  | { readonly to: string; readonly op: 'answer'; readonly id: number; readonly answer: Answer }
  | { readonly to: string; readonly op: 'ended'; readonly end: LinkEnd };

/** Events of a room that the leader keeps, for tabs that come back to it. */
const KEPT = 500;
/** How long the leader keeps a room that no tab watches, in milliseconds: tabs that come back to it find their events. */
const LINGER_MS = 5_000;
const CHANGED: LinkEnd = { later: true, code: 'LEADER_CHANGED', message: 'Another tab has the connection now' };

/**
 * One connection for all tabs of a browser. One tab leads: it has the connection, and is a small server to all of them, itself
 * among them. When it goes, another one leads. Needs BroadcastChannel and Web Locks, which every browser of today has.
 */
export const tabs = (options: TabsOptions): Transport => {
  const { name, locks = navigator.locks as unknown as Locks } = options;
  const links = new Set<string>();
  let credential: Credential = {};
  let stopLeading = new AbortController();
  let candidate = false;

  /** Waits for its turn to lead, and leads while this tab has links. */
  const stand = (url: string): void => {
    if (candidate) {
      return;
    }
    candidate = true;
    stopLeading = new AbortController();
    const { signal } = stopLeading;
    const lead = (): Promise<void> =>
      new Promise((resolve) => {
        const leader = new Leader(name, locks, options.transport, url, async () => credential);
        signal.addEventListener('abort', () => {
          leader.stop();
          resolve();
        });
      });
    locks.request(name, { signal }, lead).catch(() => {});
  };

  const shared: Transport = ({ url, credential: shown }, events) => {
    const id = crypto.randomUUID();
    const channel = new BroadcastChannel(name);
    const waiting = new Map<number, (answer: Answer) => void>();
    let requests = 0;
    let opened = false;
    let release = (): void => {};
    credential = shown;
    links.add(id);

    const post = (note: Note): void => channel.postMessage(note);
    const close = (): void => {
      if (links.delete(id)) {
        post({ to: 'leader', from: id, op: 'close' });
        channel.close();
        release();
        if (links.size === 0) {
          candidate = false;
          stopLeading.abort();
        }
      }
    };
    const end = (reason: LinkEnd): void => {
      close();
      events.ended(reason);
    };
    channel.onmessage = ({ data }: { data: Note }) => {
      if (!links.has(id) || (data.to !== id && data.to !== 'all')) {
        return;
      }
      if (data.op === 'hello') {
        if (opened) {
          end(CHANGED);
        } else {
          post({ to: 'leader', from: id, op: 'open' });
        }
      } else if (data.op === 'opened') {
        if (!opened) {
          opened = true;
          events.opened();
        }
      } else if (data.op === 'message') {
        events.message(data.message);
      } else if (data.op === 'answer') {
        const answered = waiting.get(data.id);
        waiting.delete(data.id);
        answered?.(data.answer);
      } else if (data.op === 'ended') {
        end(data.end);
      }
    };
    // The leader hears from this lock that the tab has gone, however it went.
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    void locks.request(`${name} ${id}`, {}, () => {
      if (links.has(id)) {
        post({ to: 'leader', from: id, op: 'open' });
        stand(url);
      }
      return held;
    });

    return {
      send: (type, data, answered) => {
        if (type === 'AUTH') {
          credential = data as Credential;
        }
        requests += 1;
        waiting.set(requests, answered);
        post({ to: 'leader', from: id, op: 'send', type, data, id: requests });
      },
      close,
    };
  };
  return Object.assign(shared, { alone: options.transport });
};

/** A room of the leader, with its last events. */
interface LedRoom {
  readonly store: RoomStore;
  readonly recent: Array<Exclude<StreamItem, { type: 'RESYNC' }>>;
  /** Links that watch it. */
  watchers: number;
}

class Leader {
  readonly #name: string;
  readonly #locks: Locks;
  readonly #channel: BroadcastChannel;
  readonly #engine: Engine;
  readonly #rooms = new Map<string, LedRoom>();
  /** What each link watches, and how it stops. */
  readonly #links = new Map<string, Map<string, () => void>>();
  #open = false;

  constructor(name: string, locks: Locks, transport: Transport, url: string, credential: () => Promise<Credential>) {
    this.#name = name;
    this.#locks = locks;
    this.#engine = createEngine({
      url,
      transport,
      credential,
      surroundings: {
        now: () => performance.now(),
        random: Math.random,
        setTimeout: (work, ms) => setTimeout(work, ms),
        clearTimeout: (timer) => clearTimeout(timer as ReturnType<typeof setTimeout>),
      },
      backoff: { baseMs: 500, capMs: 30_000 },
      silenceMs: 25_000,
      patienceMs: 20_000,
      changed: () => this.#changed(),
    });
    this.#channel = new BroadcastChannel(name);
    this.#channel.onmessage = ({ data }: { data: Note }) => this.#receive(data);
    this.#post({ to: 'all', op: 'hello' });
  }

  stop(): void {
    for (const id of [...this.#links.keys()]) {
      this.#end(id, CHANGED);
    }
    this.#engine.go('close');
    this.#channel.close();
  }

  #post(note: Note): void {
    this.#channel.postMessage(note);
  }

  /** The connection of all is gone: each link is told, and comes back to wait for the next one. */
  #changed(): void {
    const { state, reason } = this.#engine;
    const wasOpen = this.#open;
    this.#open = state === 'open';
    if (this.#open && !wasOpen) {
      for (const id of this.#links.keys()) {
        this.#post({ to: id, op: 'opened' });
      }
    }
    if (state === 'failed' || (wasOpen && !this.#open && state !== 'closed')) {
      for (const id of [...this.#links.keys()]) {
        this.#end(id, reason ?? CHANGED);
      }
    }
  }

  #end(id: string, end: LinkEnd): void {
    this.#post({ to: id, op: 'ended', end });
    this.#drop(id);
  }

  #drop(id: string): void {
    const watched = this.#links.get(id);
    this.#links.delete(id);
    for (const leave of watched?.values() ?? []) {
      leave();
    }
  }

  #receive(note: Note): void {
    if (note.to !== 'leader' || !('from' in note)) {
      return;
    }
    const { from: id } = note;
    if (note.op === 'open') {
      if (!this.#links.has(id)) {
        this.#links.set(id, new Map());
        if (this.#engine.state === 'failed') {
          this.#engine.retry();
        }
        void this.#locks.request(`${this.#name} ${id}`, {}, async () => this.#drop(id));
      }
      if (this.#open || this.#engine.state === 'idle') {
        this.#post({ to: id, op: 'opened' });
      }
    } else if (note.op === 'close') {
      this.#drop(id);
    } else if (note.op === 'send' && this.#links.has(id)) {
      void this.#answer(id, note.type, note.data).then(
        (data) => this.#links.has(id) && this.#post({ to: id, op: 'answer', id: note.id, answer: { data } }),
      );
    }
  }

  async #answer(id: string, type: string, data: unknown): Promise<unknown> {
    const watched = this.#links.get(id)!;
    switch (type) {
      case 'SUBSCRIBE': {
        const { rooms } = data as { rooms: readonly SubscribeRequest[] };
        return { rooms: await Promise.all(rooms.map((request) => this.#subscribe(id, request))) };
      }
      case 'UNSUBSCRIBE': {
        const { room } = data as { room: string };
        watched.get(room)?.();
        watched.delete(room);
        return data;
      }
      case 'PING': {
        this.#engine.ping();
        const positions = [...watched.keys()].flatMap((room) => {
          const position = this.#rooms.get(room)?.store.room?.position;
          return position === undefined ? [] : [{ room, ...position }];
        });
        return { positions };
      }
      default:
        return data;
    }
  }

  #room(name: string): LedRoom {
    const known = this.#rooms.get(name);
    if (known !== undefined) {
      return known;
    }
    const recent: LedRoom['recent'] = [];
    const store = createRoomStore(name, {
      engine: this.#engine,
      lingerMs: 0,
      later: (work, ms) => setTimeout(work, ms),
      never: (timer) => clearTimeout(timer as ReturnType<typeof setTimeout>),
      left: () => {},
      load: () => undefined,
      save: () => {},
    });
    const led: LedRoom = { store, recent, watchers: 0 };
    this.#rooms.set(name, led);
    // It listens by itself: what comes while no tab watches is kept too.
    const forget = store.listen((item) => {
      if (item?.type === 'RESYNC') {
        recent.splice(0);
      } else if (item !== undefined && recent.push(item) > KEPT) {
        recent.shift();
      }
    });
    const look = (): void => {
      if (led.watchers > 0 && this.#engine.state !== 'closed') {
        setTimeout(look, LINGER_MS);
        return;
      }
      forget();
      this.#rooms.delete(name);
      if (this.#rooms.size === 0) {
        this.#engine.go('unwanted');
      }
    };
    setTimeout(look, LINGER_MS);
    return led;
  }

  /** Answers as the server does: when the room is live, with what the link has missed or a snapshot before. */
  #subscribe(id: string, request: SubscribeRequest): Promise<SubscribeOutcome> {
    const { room: name } = request;
    const watched = this.#links.get(id)!;
    watched.get(name)?.();
    const led = this.#room(name);
    const { store, recent } = led;
    led.watchers += 1;
    return new Promise((resolve) => {
      let joined = false;
      const send = (message: Incoming): void =>
        this.#post({ to: id, op: 'message', message: { ...message, room: name } });
      const join = (): void => {
        const { status, position, tasks, truncated, error } = store.snapshot();
        if (status === 'error') {
          resolve({ room: name, error: error! });
        } else if (status === 'live') {
          joined = true;
          const { seq, epoch } = position!;
          const { since = -1 } = request;
          const missed = recent.filter((event) => event.seq > since);
          const covered = since === seq || (recent.length > 0 && recent[0]!.seq <= since && since <= seq);
          const recovered = request.epoch === epoch && covered;
          if (recovered) {
            missed.forEach(send);
          } else {
            send({ type: 'JOB_TASKS_SNAPSHOT', seq, epoch, data: snapshotOf(name, tasks, truncated) });
          }
          resolve({ room: name, seq, epoch, recovered, replayed: recovered ? missed.length : 0 });
        }
      };
      const unlisten = store.listen((item) => {
        if (item === undefined) {
          if (!joined) {
            join();
          }
        } else if (joined && item.type === 'RESYNC') {
          this.#end(id, { later: true, code: 'STREAM_RESET', message: 'The room begins anew' });
        } else if (joined) {
          send(item as Incoming);
        }
      });
      watched.set(name, () => {
        unlisten();
        led.watchers -= 1;
      });
      join();
    });
  }
}

function snapshotOf(
  name: string,
  tasks: SnapshotMessage['data']['tasks'],
  truncated: boolean,
): SnapshotMessage['data'] {
  const id = name.slice(name.indexOf(':') + 1);
  return { job_id: id, user_id: tasks[0]?.user_id ?? '', tasks, ...(truncated ? { truncated } : {}) };
}
