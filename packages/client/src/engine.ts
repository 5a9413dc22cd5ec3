import { type Backoff, pause } from './backoff.js';
import { CONNECTION, type ConnectionEvent, type ConnectionState } from './machine.js';
import {
  type ErrorBody,
  isSnapshot,
  isTaskEvent,
  type PositionsData,
  roomsOf,
  type SubscribeOutcome,
  type SubscribeRequest,
} from './protocol.js';
import { refusal } from './refusal.js';
import { type Room, roomOfSnapshot } from './room.js';
import type { Answer, Credential, Incoming, Link, LinkEnd, Transport } from './transport.js';

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
  readonly credential: () => Credential | Promise<Credential>;
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
/** Characters of one SUBSCRIBE; the server takes 32,768 bytes. */
const MAX_REQUEST = 16_000;

/**
 * Keeps one link up and all rooms on it. The state of the connection follows `CONNECTION`, that of each room `ROOM`; what
 * is done in a state is done when it is entered.
 */
export class Engine {
  state: ConnectionState = 'idle';
  reason: LinkEnd | undefined;
  /** When the next try is due, on the clock of `now`. */
  nextTryAt: number | undefined;
  readonly rooms = new Map<string, Room>();
  readonly #options: EngineOptions;
  #link: Link | undefined;
  /** Counts links: what an earlier one brings is nobody's. */
  #links = 0;
  #attempt = 0;
  #openedAt = 0;
  #heardAt = 0;
  #askedAt: number | undefined;
  #patience = 0;
  #timer: unknown;
  #heldTimer: unknown;
  #heldAttempt = 0;
  #retryAfterMs = 0;
  #flushing = false;

  constructor(options: EngineOptions) {
    this.#options = options;
  }

  add(room: Room): void {
    this.rooms.set(room.name, room);
    this.go('wanted');
    this.#flushSoon();
  }

  /** Forgets a room. Without any room left the connection is ended by `unwanted`. */
  delete(room: Room): void {
    if (this.rooms.get(room.name) === room) {
      this.rooms.delete(room.name);
      if (this.state === 'open' && room.state !== 'off' && room.state !== 'refused') {
        this.#link!.send('UNSUBSCRIBE', { room: room.name }, () => {});
      }
    }
  }

  go(event: ConnectionEvent, end?: LinkEnd): void {
    const from = this.state;
    const next = CONNECTION[from][event];
    if (next === from) {
      return;
    }
    if (from === 'open' || from === 'connecting') {
      if (next !== 'open') {
        this.#leaveLink(from);
      }
    }
    this.#clear();
    this.state = next;
    this.reason = next === 'waiting' || next === 'failed' ? end : undefined;
    switch (next) {
      case 'connecting':
        this.#connect();
        break;
      case 'open':
        this.#opened();
        break;
      case 'waiting':
        this.#wait(end?.retryAfterMs);
        break;
    }
    this.#options.changed();
    for (const room of this.rooms.values()) {
      room.told.changed();
    }
  }

  /** The page is seen again, or has a network again: a link that died meanwhile is found out. */
  check(): void {
    if (this.state === 'open') {
      this.#probe(this.#joining() ? this.#options.patienceMs : RETURN_MS);
    }
  }

  /** Asks again for what was refused. */
  retry(): void {
    for (const room of this.rooms.values()) {
      room.go('retry');
    }
    this.#attempt = 0;
    this.go('retry');
    this.#flushSoon();
  }

  /** Asks the server where the connection stands. @returns false when there is none, or it is being asked already */
  ping(): boolean {
    if (this.state !== 'open' || this.#askedAt !== undefined) {
      return false;
    }
    this.#probe(this.#options.patienceMs);
    return true;
  }

  #joining(): boolean {
    return [...this.rooms.values()].some(({ state }) => state === 'joining');
  }

  #connect(): void {
    const mine = ++this.#links;
    const { surroundings, patienceMs, transport, url, credential } = this.#options;
    const ended = (end: LinkEnd): void => {
      if (mine === this.#links) {
        this.go(end.later ? 'lost' : 'refused', end);
      }
    };
    this.#timer = surroundings.setTimeout(
      () => ended({ later: true, code: 'NO_ANSWER', message: 'The server did not take the connection in time' }),
      patienceMs,
    );
    const open = (shown: Credential): void => {
      if (mine !== this.#links) {
        return;
      }
      try {
        this.#link = transport(
          { url, credential: shown },
          {
            opened: () => mine === this.#links && this.go('opened'),
            message: (message) => mine === this.#links && this.#message(message),
            ended,
          },
        );
      } catch (error) {
        ended({ later: false, code: 'INVALID_ADDRESS', message: String(error) });
      }
    };
    const unavailable = (error: unknown): void =>
      ended({ later: true, code: 'TOKEN_UNAVAILABLE', message: String(error) });
    try {
      const shown = credential();
      if (shown instanceof Promise) {
        shown.then(open, unavailable);
      } else {
        open(shown);
      }
    } catch (error) {
      unavailable(error);
    }
  }

  #opened(): void {
    const { surroundings } = this.#options;
    this.#openedAt = this.#heardAt = surroundings.now();
    for (const room of this.rooms.values()) {
      room.opened();
    }
    this.#watch(this.#options.silenceMs);
    this.#flush();
  }

  /** What holds for every way out of a link. */
  #leaveLink(from: ConnectionState): void {
    this.#links += 1;
    this.#link?.close();
    this.#link = undefined;
    this.#askedAt = undefined;
    if (from === 'open' && this.#options.surroundings.now() - this.#openedAt >= GOOD_MS) {
      this.#attempt = 0;
    }
    for (const room of this.rooms.values()) {
      room.lost();
    }
  }

  #clear(): void {
    const { surroundings } = this.#options;
    surroundings.clearTimeout(this.#timer);
    surroundings.clearTimeout(this.#heldTimer);
    this.#heldTimer = undefined;
    this.nextTryAt = undefined;
  }

  #wait(retryAfterMs: number | undefined): void {
    const { surroundings, backoff } = this.#options;
    const ms = pause(backoff, this.#attempt, surroundings.random(), retryAfterMs);
    this.#attempt += 1;
    this.nextTryAt = surroundings.now() + ms;
    this.#timer = surroundings.setTimeout(() => this.go('due'), ms);
  }

  /** Looks after the link in `ms`. A timer that is late is one of a page that was throttled: it proves nothing. */
  #watch(ms: number): void {
    const { surroundings, silenceMs, patienceMs } = this.#options;
    surroundings.clearTimeout(this.#timer);
    const due = surroundings.now() + ms;
    this.#timer = surroundings.setTimeout(() => {
      const now = surroundings.now();
      if (this.#askedAt === undefined) {
        const silent = now - this.#heardAt;
        if (silent >= silenceMs) {
          this.#probe(patienceMs);
        } else {
          this.#watch(silenceMs - silent);
        }
      } else if (now - due > this.#patience) {
        this.#probe(this.#patience);
      } else {
        this.go('lost', { later: true, code: 'NO_ANSWER', message: 'The server does not answer' });
      }
    }, ms);
  }

  #probe(patience: number): void {
    const asked = this.#options.surroundings.now();
    this.#askedAt = asked;
    this.#patience = patience;
    this.#watch(patience);
    this.#link!.send('PING', {}, (answer) => {
      if ('data' in answer) {
        this.#positions(answer.data as PositionsData);
      }
      if (this.#askedAt === asked) {
        this.#heard();
      }
    });
  }

  #heard(): void {
    this.#heardAt = this.#options.surroundings.now();
    if (this.#askedAt !== undefined) {
      this.#askedAt = undefined;
      this.#watch(this.#options.silenceMs);
    }
  }

  #message(message: Incoming): void {
    this.#heard();
    if (isSnapshot(message)) {
      this.rooms.get(roomOfSnapshot(message))?.replace(message);
    } else if (message.type === 'POSITION') {
      this.#positions(message.data as PositionsData);
    } else if (message.seq !== undefined && isTaskEvent(message)) {
      for (const name of roomsOf(message)) {
        this.rooms.get(name)?.event(message);
      }
    }
  }

  #positions({ positions }: PositionsData): void {
    for (const position of positions) {
      this.rooms.get(position.room)?.server(position);
    }
  }

  /** Rooms that are watched in one go are asked for in one message. */
  #flushSoon(): void {
    if (!this.#flushing) {
      this.#flushing = true;
      void Promise.resolve().then(() => {
        this.#flushing = false;
        this.#flush();
      });
    }
  }

  #flush(): void {
    if (this.state !== 'open') {
      return;
    }
    let batch: SubscribeRequest[] = [];
    let size = 0;
    for (const room of this.rooms.values()) {
      if (room.state === 'off') {
        const request = room.ask();
        batch.push(request);
        size += JSON.stringify(request).length;
        if (size > MAX_REQUEST) {
          this.#subscribe(batch);
          batch = [];
          size = 0;
        }
      }
    }
    if (batch.length > 0) {
      this.#subscribe(batch);
    }
  }

  #subscribe(requests: readonly SubscribeRequest[]): void {
    const asked = requests.map(({ room }) => this.rooms.get(room)!).map((room) => ({ room, time: room.asked }));
    const mine = this.#links;
    this.#link!.send('SUBSCRIBE', { rooms: requests }, (answer: Answer) => {
      if (mine !== this.#links) {
        return;
      }
      this.#heard();
      const outcomes = 'data' in answer ? (answer.data as { rooms: readonly SubscribeOutcome[] }).rooms : undefined;
      for (const [index, { room, time }] of asked.entries()) {
        // One that was left, or asked for again, has nothing to do with this answer.
        if (room.asked === time && room.state === 'joining' && this.rooms.get(room.name) === room) {
          const outcome = outcomes?.[index] ?? answer;
          if ('error' in outcome) {
            this.#refuse(room, outcome.error as ErrorBody);
          } else {
            room.joined(outcome as Exclude<SubscribeOutcome, { error: unknown }>);
          }
        }
      }
      if (asked.some(({ room }) => room.state === 'live')) {
        this.#heldAttempt = 0;
      }
      this.hold();
    });
  }

  #refuse(room: Room, error: ErrorBody): void {
    const { later, retryAfterMs = 0 } = refusal(error);
    this.#retryAfterMs = Math.max(this.#retryAfterMs, retryAfterMs);
    room.refused(error, later);
  }

  /** Sees to it that rooms that are held are asked for again, all together. */
  hold(): void {
    if (this.#heldTimer !== undefined || this.state !== 'open') {
      return;
    }
    if ([...this.rooms.values()].some(({ state }) => state === 'held')) {
      const { surroundings, backoff } = this.#options;
      const ms = pause(backoff, this.#heldAttempt, surroundings.random(), this.#retryAfterMs);
      this.#heldAttempt += 1;
      this.#retryAfterMs = 0;
      this.#heldTimer = surroundings.setTimeout(() => {
        this.#heldTimer = undefined;
        for (const room of this.rooms.values()) {
          if (room.state === 'held') {
            room.go('retry');
          }
        }
        this.#flush();
      }, ms);
    }
  }
}
