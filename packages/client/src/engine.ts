import { type Backoff, pause } from './backoff.js';
import { CONNECTION, type ConnectionEvent, type ConnectionState } from './machine.js';
import {
  isTaskEvent,
  type PositionsData,
  roomsOf,
  type SnapshotMessage,
  type SubscribeOutcome,
  type SubscribeResult,
} from './protocol.js';
import { refusal } from './refusal.js';
import type { Room } from './room.js';
import type { Credential, Incoming, Link, LinkEnd, Transport } from './transport.js';

/** Time and chance, as the engine has them. */
export interface Surroundings {
  /** Milliseconds that never go back. */
  now(): number;
  /** A number from 0 to 1. */
  random(): number;
  setTimeout(work: () => void, ms: number): unknown;
  clearTimeout(timer: unknown): void;
}

export interface EngineOptions {
  readonly url: string;
  readonly transport: Transport;
  readonly surroundings: Surroundings;
  readonly backoff: Backoff;
  /** Asked before each connection. */
  readonly credential: () => Promise<Credential>;
  /** How long the server may be silent before it is asked, in milliseconds. */
  readonly silenceMs: number;
  /** How long it may take to answer then, and to take a connection, in milliseconds. */
  readonly patienceMs: number;
  /** The connection has another state. */
  readonly changed: () => void;
}

/** A connection that held for so long was a good one: the pauses begin anew. */
const GOOD_MS = 5_000;
/** How long a link may take to answer after the page was away, in milliseconds. */
const RETURN_MS = 5_000;
/** Rooms of one SUBSCRIBE: with names of 160 characters it has 13 kB, and the server takes 32,768 bytes. */
const MAX_ROOMS = 50;

/**
 * Keeps one link up and all rooms on it. The state of the connection follows `CONNECTION`, that of each room `ROOM`; what
 * is done in a state is done when it is entered.
 */
export interface Engine {
  readonly state: ConnectionState;
  /** Why it waits or has failed. */
  readonly reason: LinkEnd | undefined;
  /** When the next try is due, on the clock of `now`. */
  readonly nextTryAt: number | undefined;
  add(room: Room): void;
  /** Leaves a room. Without any room the connection is ended by `unwanted`. */
  delete(room: Room): void;
  go(event: ConnectionEvent, end?: LinkEnd): void;
  /** The page is seen again, or has a network again: a link that died meanwhile is found out. */
  check(): void;
  /** Asks again for what was refused. */
  retry(): void;
  /** Asks the server where the connection stands, unless it is being asked already. */
  ping(): void;
  /** Sees to it that rooms that are held are asked for again, all together. */
  hold(): void;
}

export function createEngine(options: EngineOptions): Engine {
  const { url, transport, backoff, credential, silenceMs, patienceMs, changed } = options;
  const { now, random, setTimeout, clearTimeout } = options.surroundings;
  const rooms = new Map<string, Room>();
  let state: ConnectionState = 'idle';
  let reason: LinkEnd | undefined;
  let nextTryAt: number | undefined;
  let link: Link | undefined;
  /** Counts links: what an earlier one brings is nobody's. */
  let links = 0;
  /** Tries that failed in a row. */
  let attempt = 0;
  let openedAt = 0;
  let heardAt = 0;
  /** When the PING went out that is not answered yet. */
  let pingedAt: number | undefined;
  let timer: unknown;
  let heldTimer: unknown;
  let tokenTimer: unknown;
  let credentialNow: Credential = {};
  let heldAttempt = 0;
  let retryAfterMs = 0;

  const every = (work: (room: Room) => void): void => rooms.forEach(work);
  const anyIs = (wanted: Room['state']): boolean => [...rooms.values()].some((room) => room.state === wanted);

  const go = (event: ConnectionEvent, end?: LinkEnd): void => {
    const from = state;
    const next = CONNECTION[from][event];
    if (next === from) {
      return;
    }
    if (link !== undefined || from === 'connecting') {
      if (next !== 'open') {
        leaveLink();
      }
    }
    [timer, heldTimer, tokenTimer].forEach(clearTimeout);
    heldTimer = nextTryAt = undefined;
    state = next;
    reason = end;
    if (next === 'connecting') {
      connect();
    } else if (next === 'open') {
      openedAt = heardAt = now();
      every((room) => room.opened());
      watch(silenceMs);
      refreshLater();
      flush();
    } else if (next === 'waiting') {
      const ms = pause(backoff, attempt, random(), end?.retryAfterMs);
      attempt += 1;
      nextTryAt = now() + ms;
      timer = setTimeout(() => go('due'), ms);
    }
    changed();
    every((room) => room.told.changed());
  };

  const connect = (): void => {
    const mine = ++links;
    const ended = (end: LinkEnd): void => {
      if (mine === links) {
        go(end.later ? 'lost' : 'refused', end);
      }
    };
    const open = (shown: Credential): void => {
      if (mine === links) {
        credentialNow = shown;
        try {
          link = transport(
            { url, credential: shown },
            {
              opened: () => mine === links && go('opened'),
              message: (message) => mine === links && receive(message),
              ended,
            },
          );
        } catch (error) {
          ended({ later: false, code: 'INVALID_ADDRESS', message: String(error) });
        }
      }
    };
    timer = setTimeout(() => ended(NO_ANSWER), patienceMs);
    credential().then(open, (error) => ended({ later: true, code: 'TOKEN_UNAVAILABLE', message: String(error) }));
  };

  /** Brings a new token before the one of now ends. Where that fails the server ends the link, and the next one has a new one. */
  const refreshLater = (): void => {
    const ms = lifeOf(credentialNow.token) * 0.6;
    if (ms > 1_000) {
      const mine = links;
      const renew = async (): Promise<void> => {
        const fresh = await credential();
        if (mine === links) {
          credentialNow = fresh;
          link!.send('AUTH', { token: fresh.token }, refreshLater);
        }
      };
      tokenTimer = setTimeout(() => void renew().catch(() => {}), Math.min(ms, 2e9));
    }
  };

  /** What holds for every way out of a link. */
  const leaveLink = (): void => {
    links += 1;
    link?.close();
    link = pingedAt = undefined;
    if (state === 'open' && now() - openedAt >= GOOD_MS) {
      attempt = 0;
    }
    every((room) => room.lost());
  };

  /** Looks after the link in `ms`. A timer that is late is one of a page that was throttled: it proves nothing. */
  const watch = (ms: number): void => {
    clearTimeout(timer);
    const due = now() + ms;
    timer = setTimeout(() => {
      const silent = now() - heardAt;
      if (pingedAt === undefined) {
        if (silent < silenceMs) {
          watch(silenceMs - silent);
        } else {
          probe(patienceMs);
        }
      } else if (now() - due > ms) {
        probe(ms);
      } else {
        go('lost', NO_ANSWER);
      }
    }, ms);
  };

  const probe = (ms: number): void => {
    const asked = now();
    pingedAt = asked;
    watch(ms);
    link!.send('PING', {}, (answer) => {
      if ('data' in answer) {
        positions(answer.data as PositionsData);
      }
      if (pingedAt === asked) {
        heard();
      }
    });
  };

  const heard = (): void => {
    heardAt = now();
    if (pingedAt !== undefined) {
      pingedAt = undefined;
      watch(silenceMs);
    }
  };

  const receive = (message: Incoming): void => {
    const { room, type } = message;
    heard();
    if (/SNAPSHOT/.test(type)) {
      const snapshot = message as SnapshotMessage & { readonly data: { readonly room?: string } };
      // JOB_TASKS_SNAPSHOT is of a job, and so on; a part says its room.
      const name = room ?? snapshot.data.room ?? roomsOf(snapshot)['JTU'.indexOf(type[0]!)]!;
      rooms.get(name)?.replace(snapshot);
    } else if (type === 'POSITION') {
      positions(message.data as PositionsData);
    } else if (message.seq !== undefined && isTaskEvent(message)) {
      for (const name of room === undefined ? roomsOf(message) : [room]) {
        rooms.get(name)?.event(message);
      }
    }
  };

  const positions = (data: PositionsData): void => {
    for (const position of data.positions) {
      rooms.get(position.room)?.server(position);
    }
  };

  /** Asks for every room that is not asked for. */
  const flush = (): void => {
    if (state !== 'open') {
      return;
    }
    const off = [...rooms.values()].filter((room) => room.state === 'off');
    while (off.length > 0) {
      subscribe(off.splice(0, MAX_ROOMS));
    }
  };

  const subscribe = (batch: readonly Room[]): void => {
    const requests = batch.map((room) => room.ask());
    const times = batch.map(({ asked }) => asked);
    link!.send('SUBSCRIBE', { rooms: requests }, (answer) => {
      heard();
      const outcomes = 'data' in answer ? (answer.data as { rooms: readonly SubscribeOutcome[] }).rooms : undefined;
      batch.forEach((room, index) => {
        // One that was left, or asked for again, has nothing to do with this answer.
        if (room.asked === times[index] && room.state === 'joining' && rooms.get(room.name) === room) {
          const outcome = outcomes?.[index] ?? answer;
          if ('error' in outcome) {
            const { later, retryAfterMs: ms = 0 } = refusal(outcome.error);
            retryAfterMs = Math.max(retryAfterMs, ms);
            room.refused(outcome.error, later);
          } else {
            heldAttempt = 0;
            room.joined(outcome as SubscribeResult);
          }
        }
      });
      hold();
    });
  };

  const hold = (): void => {
    if (heldTimer === undefined && state === 'open' && anyIs('held')) {
      const ms = pause(backoff, heldAttempt, random(), retryAfterMs);
      heldAttempt += 1;
      retryAfterMs = 0;
      heldTimer = setTimeout(() => {
        heldTimer = undefined;
        every((room) => room.state === 'held' && room.go('retry'));
        flush();
      }, ms);
    }
  };

  // Rooms that are watched in one go are asked for in one message.
  const flushSoon = (): void => queueMicrotask(flush);

  return {
    get state() {
      return state;
    },
    get reason() {
      return reason;
    },
    get nextTryAt() {
      return nextTryAt;
    },
    add: (room) => {
      rooms.set(room.name, room);
      go('wanted');
      flushSoon();
    },
    delete: ({ name }) => {
      rooms.delete(name);
      if (state === 'open') {
        link!.send('UNSUBSCRIBE', { room: name }, () => {});
      }
    },
    go,
    check: () => {
      if (state === 'open') {
        probe(anyIs('joining') ? patienceMs : RETURN_MS);
      }
    },
    retry: () => {
      every((room) => room.go('retry'));
      attempt = 0;
      go('retry');
      flushSoon();
    },
    ping: () => {
      if (state === 'open' && pingedAt === undefined) {
        probe(patienceMs);
      }
    },
    hold,
  };
}

/** How long a JSON web token still lives, in milliseconds; not a number where it does not say. */
function lifeOf(token = ''): number {
  try {
    const claims = JSON.parse(atob(token.split('.')[1]!.replace(/-/g, '+').replace(/_/g, '/'))) as { exp: number };
    return claims.exp * 1_000 - Date.now();
  } catch {
    return Number.NaN;
  }
}

const NO_ANSWER: LinkEnd = { later: true, code: 'NO_ANSWER', message: 'The server does not answer' };
