import type { Target } from './connection.js';

/** When connections begin: so many are being set up at a time, or so many begin in each second, whatever became of others. */
export type Pace = { readonly parallel: number } | { readonly perSecond: number };

/** What the driver asks of a load process. Each request gets one answer. */
export type Request =
  | {
      readonly do: 'open';
      /** Where connections go, in turn. */
      readonly targets: readonly Target[];
      /** Rooms of each connection. */
      readonly rooms: ReadonlyArray<readonly string[]>;
      /** Number of the room, among all of the scenario, whose events each connection counts; -1: none. */
      readonly accounts: readonly number[];
      readonly pace: Pace;
    }
  /** Sets up again, all at once, the connections that were dropped, from where each stopped. */
  | { readonly do: 'reopen'; readonly resume: boolean }
  | { readonly do: 'drop' }
  /** Begins to count from zero. Of the deliveries one in `every` is timed. */
  | { readonly do: 'begin'; readonly every: number }
  | { readonly do: 'count' }
  | { readonly do: 'end'; readonly expected: Expected };

/** What was sent, by number of the room. */
export interface Expected {
  readonly counts: Float64Array;
  readonly sums: Float64Array;
  /** Triples of room, seq and the time at which the event was sent. */
  readonly stamps: Float64Array;
}

export interface Opened {
  readonly ready: number;
  readonly failed: number;
  /** Set-ups that got no answer in time and were tried again. */
  readonly retries: number;
  readonly problems: readonly string[];
  /** From the first byte to the answer of SUBSCRIBE, in microseconds, of each connection that got there. */
  readonly latencies: Float64Array;
  /** Events that were sent before the answer, as the server says. */
  readonly replayed: number;
  readonly unrecovered: number;
}

export interface Counted {
  readonly delivered: number;
  /** When the last one arrived. */
  readonly lastMicros: number;
  readonly cpuMicros: number;
}

export interface Ended extends Counted {
  readonly lost: number;
  /** Events beyond those that were sent. */
  readonly extra: number;
  /** Events that are no newer than one before them: copies, or out of order. */
  readonly disordered: number;
  /** Connections whose events are as many as those sent, but others. */
  readonly wrong: number;
  readonly closed: number;
  readonly problems: readonly string[];
  readonly latencies: Float64Array;
}
