import { LRUCache } from 'lru-cache';
import { Allowance, type Waiter } from '../base/allowance.js';
import { TaskwireError } from '../protocol/errors.js';
import type { Identity } from '../protocol/tasks.js';

/** Messages of one connection that are taken in one turn of the event loop; the rest waits for the next. */
const MESSAGES_PER_TURN = 32;
/** A connection that has been over its allowance for so long is closed, in milliseconds. */
const PATIENCE_MS = 10_000;
/** When nothing of a connection had to wait for so long, it counts as within its allowance again, in milliseconds. */
const CALM_MS = 1_000;
/** Between two notices to a connection that is over its allowance, in milliseconds. */
const NOTICE_MS = 1_000;

/** Keys whose allowance is remembered. */
const MAX_KEYS = 50_000;

/** Gets the calls of a meter whose connection sends more than it may. */
export interface MeterListener {
  /** Its messages are not read for some time. Called at most once a second. */
  onSlowed(retryAfterMs: number): void;
  /** It went on for ten seconds. Nothing more of it will be read. */
  onExceeded(): void;
}

/** Turns of the event loop, counted only while somebody asks. */
const turns = {
  number: 0,
  counted: false,
  current(): number {
    if (!this.counted) {
      this.counted = true;
      setImmediate(() => {
        this.number += 1;
        this.counted = false;
      });
    }
    return this.number;
  },
};

/**
 * Decides when the next message of one connection is read. Each costs a unit of the connection's own allowance and one of
 * its key's; `spend` adds what a message costs beyond that. A message that has to wait stays in the socket, so that the
 * sender is slowed by TCP and no memory grows.
 */
export class Meter implements Waiter {
  listener: MeterListener | undefined;
  private own: Allowance;
  private key: Allowance | undefined;
  /** The one message that waits. */
  private granted: (() => void) | undefined;
  private line: Allowance | undefined;
  private stopped = false;
  private turn = -1;
  private taken = 0;
  private overSince: number | undefined;
  private waitedAt = Number.NEGATIVE_INFINITY;
  private toldAt = Number.NEGATIVE_INFINITY;

  /** @param rate units a second of a connection. One that is not authenticated has no more than those of a second at once. */
  constructor(
    private readonly rate: number,
    private readonly now: () => number = () => performance.now(),
  ) {
    this.own = new Allowance({ rate, burst: rate, now });
  }

  /** The connection is authenticated. @param key what all connections of its key share */
  admit(key: Allowance): void {
    this.own = new Allowance({ rate: this.rate, now: this.now });
    this.key = key;
  }

  /** The connection goes on with another key. Its own allowance stays as it is. @param key as for `admit` */
  share(key: Allowance): void {
    this.key = key;
  }

  /**
   * Asks to read one message.
   * @param granted called later, once, when the answer is no; the message may be read then
   * @returns whether it may be read now
   */
  ask(granted: () => void): boolean {
    if (this.take(undefined)) {
      return true;
    }
    this.granted = granted;
    return false;
  }

  /** Takes what a message costs beyond the unit that every one costs. */
  spend(units: number): void {
    if (units > 0) {
      this.own.spend(units);
      this.key?.spend(units);
    }
  }

  /** Reads nothing more; what waits is forgotten. */
  stop(): void {
    this.stopped = true;
    this.granted = undefined;
    this.line?.leave(this);
    this.line = undefined;
  }

  private take(served: Allowance | undefined): boolean {
    if (this.stopped) {
      return false;
    }
    const turn = turns.current();
    if (turn !== this.turn) {
      this.turn = turn;
      this.taken = 0;
    }
    if (this.taken >= MESSAGES_PER_TURN) {
      setImmediate(retry, this);
      return false;
    }
    const { own, key } = this;
    if (own.waitMs > 0) {
      return this.wait(own);
    }
    if (key !== undefined && key !== served && (key.awaited || key.waitMs > 0)) {
      return this.wait(key);
    }
    if (this.overSince !== undefined && this.now() - this.waitedAt >= CALM_MS) {
      this.overSince = undefined;
    }
    this.taken += 1;
    own.spend(1);
    key?.spend(1);
    return true;
  }

  /** @returns false, as the message is not taken */
  private wait(line: Allowance): false {
    const now = this.now();
    this.overSince ??= now;
    if (now - this.overSince >= PATIENCE_MS) {
      this.stop();
      this.listener?.onExceeded();
      return false;
    }
    this.line = line;
    line.queue(this);
    if (now - this.toldAt >= NOTICE_MS) {
      this.toldAt = now;
      this.listener?.onSlowed(Math.ceil(line.waitMs));
    }
    return false;
  }

  /** Its turn in the line has come. */
  serve(): void {
    const { line } = this;
    this.line = undefined;
    this.waitedAt = this.now();
    this.attempt(line);
  }

  /** Tries again to take the message that waits. @param served the allowance in whose line it has waited */
  attempt(served: Allowance | undefined): void {
    const { granted } = this;
    if (granted !== undefined && this.take(served)) {
      this.granted = undefined;
      granted();
    }
  }
}

const retry = (meter: Meter): void => meter.attempt(undefined);

/** The meters of this worker's connections, over both transports. */
export class Meters {
  /** What all connections of a key share. */
  private readonly keys = new LRUCache<string, Allowance>({ max: MAX_KEYS });

  constructor(
    private readonly limits: {
      readonly MAX_MESSAGES_PER_SECOND: number;
      readonly MAX_MESSAGES_PER_SECOND_PER_KEY: number;
    },
  ) {}

  /** The meter of a connection that is not authenticated yet. */
  stranger(): Meter {
    return new Meter(this.limits.MAX_MESSAGES_PER_SECOND);
  }

  /** The connection is authenticated. */
  admit(meter: Meter, identity: Identity): void {
    meter.admit(this.of(identity));
  }

  /** The connection has other credentials. */
  renew(meter: Meter, identity: Identity): void {
    meter.share(this.of(identity));
  }

  private of({ keyId, owner, rateLimit }: Identity): Allowance {
    // One key may stand for several users. One that may make more requests a second may send as many messages.
    const name = `${keyId} ${owner}`;
    let allowance = this.keys.get(name);
    if (allowance === undefined) {
      allowance = new Allowance({ rate: Math.max(this.limits.MAX_MESSAGES_PER_SECOND_PER_KEY, rateLimit / 60) });
      this.keys.set(name, allowance);
    }
    return allowance;
  }
}

/** The notice to a connection that is slowed. No message was refused: the next one is read later. */
export function tooMuch(retryAfterMs: number): TaskwireError {
  return new TaskwireError('RATE_LIMIT_EXCEEDED', {
    message: 'Too many messages: the next is read later',
    retryAfterMs,
  });
}
