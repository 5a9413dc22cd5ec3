import type { Connection } from './connection.js';

/** Time as the hub measures it. */
export interface Clock {
  /** Milliseconds of a clock that never steps. */
  now(): number;
  sleep(ms: number): Promise<unknown>;
}

export interface LineOptions {
  /** Bytes that may wait when something more is sent. */
  readonly clearBytes: number;
  /** How long a client may take nothing of what waits before it is closed with SLOW_CONSUMER, in milliseconds. */
  readonly stallMs: number;
  readonly clock: Clock;
}

/** Ends a connection whose client takes nothing. */
export interface LineEnd {
  stall(): void;
}

/** Milliseconds between two looks at a connection: the first, and the longest. */
const FIRST_LOOK_MS = 5;
const LONGEST_LOOK_MS = 80;

/**
 * The way to one client, for what is large: snapshots and pages of a replay. One thing is sent at a time, when most of
 * what was sent before has been taken. So a thin line is given what it can carry, and answers find their way between.
 *
 * A client that takes something, however slowly, is waited for. One that takes nothing is ended.
 */
export class Line {
  private ended = false;
  private last: Promise<unknown> | undefined;

  constructor(
    readonly connection: Connection,
    private readonly options: LineOptions,
    private readonly end: LineEnd,
  ) {}

  /** Nothing more is sent. Whoever waits goes on at once, and sees that it is closed. */
  close(): void {
    this.ended = true;
  }

  /** Whether as much waits as may. */
  get full(): boolean {
    return this.connection.backlog > this.options.clearBytes;
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
    const { connection, options } = this;
    const { clock, stallMs } = options;
    let before = waiting(connection);
    let takenAt = clock.now();
    for (let wait = FIRST_LOOK_MS; this.full && !this.ended; wait = Math.min(2 * wait, LONGEST_LOOK_MS)) {
      await clock.sleep(wait);
      const now = clock.now();
      const rest = waiting(connection);
      if (rest < before) {
        takenAt = now;
      } else if (now - takenAt > stallMs) {
        this.end.stall();
        return;
      }
      before = rest;
    }
  }
}

const waiting = ({ unsent, backlog }: Connection): number => unsent ?? backlog;
