import type { Connection, Outgoing } from './connection.js';

/** Time as the hub measures it. */
export interface Clock {
  /** Milliseconds of a clock that never steps. */
  now(): number;
  sleep(ms: number): Promise<unknown>;
}

export interface LineOptions {
  /** Bytes that may wait in the server when something more is sent. */
  readonly clearBytes: number;
  /** How long a client may take nothing of what waits before it is closed with SLOW_CONSUMER, in milliseconds. */
  readonly stallMs: number;
  readonly clock: Clock;
}

/** Closes a connection whose client reads nothing. */
export interface LineEnd {
  stall(): void;
}

/** Checks in a row without progress before a client counts as stalled. A worker that was held up itself has not checked. */
const LOOKS = 8;
/** Milliseconds between two checks of a connection: the first pause, and the longest. */
const FIRST_LOOK_MS = 5;
const LONGEST_LOOK_MS = 80;

/** Bytes that are sent in one piece: at first, at least, and at most. */
const FIRST_WINDOW = 65_536;
const LEAST_WINDOW = 16_384;
const WIDEST_WINDOW = 131_072;
/** About so many pieces are on the way before the client is asked: the next one is read while one is being sent. */
const PIECES = 1.5;
/** What is confirmed sooner than this makes pieces larger; what is confirmed later than that makes them smaller. */
const QUICK_MS = 1_000;
const LATE_MS = 3_000;

/**
 * Sends large things to one client: snapshots and pages of a replay. One is sent at a time, and the next one when the client
 * has got most of the one before. Buffers on the way (of the system, of proxies) may hold megabytes, so the server cannot
 * see that: it asks by a ping behind what was sent. So a slow line gets only what it can carry in a second or two, and
 * answers and other events are sent in between.
 *
 * A client that reads something, however slowly, is waited for. One that reads nothing is closed.
 */
export class Line {
  private ended = false;
  private last: Promise<unknown> | undefined;
  private sinceConfirmed = 0;
  private windowBytes = FIRST_WINDOW;
  private wake: (() => void) | undefined;

  constructor(
    readonly connection: Connection,
    private readonly options: LineOptions,
    private readonly end: LineEnd,
  ) {}

  /** Bytes that it makes sense to send at once. */
  get window(): number {
    return this.windowBytes;
  }

  /** Whether nothing more may be sent until the client has taken some. */
  get full(): boolean {
    return this.unconfirmed || this.connection.backlog > this.options.clearBytes;
  }

  private get unconfirmed(): boolean {
    return this.sinceConfirmed > PIECES * this.windowBytes;
  }

  /** Sends nothing more. Everybody who waits goes on at once, and sees that the line is closed. */
  close(): void {
    this.ended = true;
    this.wake?.();
  }

  deliver(message: Outgoing): void {
    this.sinceConfirmed += message.payload.length;
    this.connection.deliver(message);
  }

  /** Runs `work` when everybody before has had a turn and most of what they sent was taken. */
  async whenClear<T>(work: () => T | Promise<T>): Promise<T> {
    const turn = (this.last ?? Promise.resolve()).then(() => this.clear()).then(work);
    const done = turn.catch(() => {});
    this.last = done;
    try {
      return await turn;
    } finally {
      if (this.last === done) {
        this.last = undefined;
      }
    }
  }

  /** Waits until most of what was sent has been taken. Only for who has the turn. */
  async clear(): Promise<void> {
    if (this.connection.backlog > this.options.clearBytes) {
      await this.sent();
    }
    if (this.unconfirmed && !this.ended) {
      await this.confirmed();
    }
  }

  /** Waits until little waits in the server. */
  private async sent(): Promise<void> {
    const { connection, options } = this;
    const { clock, stallMs } = options;
    let before = waiting(connection);
    let takenAt = clock.now();
    let idleLooks = 0;
    for (let wait = FIRST_LOOK_MS; connection.backlog > options.clearBytes && !this.ended; ) {
      await clock.sleep(wait);
      wait = Math.min(2 * wait, LONGEST_LOOK_MS);
      const now = clock.now();
      const rest = waiting(connection);
      if (rest < before) {
        takenAt = now;
        idleLooks = 0;
      } else if (++idleLooks >= LOOKS && now - takenAt > stallMs) {
        this.end.stall();
        return;
      }
      before = rest;
    }
  }

  /** Waits until the client has got what was sent. */
  private async confirmed(): Promise<void> {
    const { connection, options } = this;
    const bytes = this.sinceConfirmed;
    this.sinceConfirmed = 0;
    if (connection.confirm === undefined) {
      return;
    }
    const began = options.clock.now();
    let patience: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve) => {
      this.wake = resolve;
      // Progress, however little: the client gets its full time again.
      const ms = options.stallMs * Math.ceil(bytes / LEAST_WINDOW);
      let idleLooks = 0;
      patience = setInterval(() => {
        if (++idleLooks >= LOOKS) {
          this.end.stall();
        }
      }, ms / LOOKS).unref();
      connection.confirm!(resolve);
    });
    clearInterval(patience);
    this.wake = undefined;
    const took = options.clock.now() - began;
    if (took < QUICK_MS) {
      this.windowBytes = Math.min(2 * this.windowBytes, WIDEST_WINDOW);
    } else if (took > LATE_MS) {
      this.windowBytes = Math.max(this.windowBytes / 2, LEAST_WINDOW);
    }
  }
}

const waiting = ({ unsent, backlog }: Connection): number => unsent ?? backlog;
