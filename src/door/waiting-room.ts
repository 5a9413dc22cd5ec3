import { OccasionalTimer } from '../base/occasional-timer.js';

interface Guest {
  readonly group: string;
  readonly since: number;
  readonly end: () => void;
}

export interface WaitingRoomOptions {
  /** Most connections at a time, of one address and in all. */
  readonly perAddress: number;
  readonly inAll: number;
  /** How long one may wait, in milliseconds. */
  readonly patienceMs: number;
  /** Whoever has waited for less than so many milliseconds does not go (0): they came with many others, and are not through yet. */
  readonly graceMs?: number;
  /** Milliseconds since any fixed moment. */
  readonly now?: () => number;
}

/** Interval of the check for connections that have waited too long, in milliseconds. */
const LOOK_MS = 500;

/**
 * Connections whose owner is not known yet. When there are too many, the one that has waited longest is closed: an honest
 * client is through in a moment, so sockets that only wait cannot keep it out.
 */
export class WaitingRoom {
  /** In the order in which they came. */
  private readonly guests = new Set<Guest>();
  private readonly groups = new Map<string, Set<Guest>>();
  /** Runs until it finds nobody. */
  private readonly timer = new OccasionalTimer(LOOK_MS, () => this.look());
  private readonly now: () => number;

  constructor(private readonly options: WaitingRoomOptions) {
    this.now = options.now ?? (() => performance.now());
  }

  get size(): number {
    return this.guests.size;
  }

  /**
   * Takes a connection in.
   * @param group its address, as `addressGroup` gives it
   * @param end cuts it off
   * @returns a function that is called when the connection has been let in, or is gone; idempotent
   */
  enter(group: string, end: () => void): () => void {
    const guest: Guest = { group, since: this.now(), end };
    this.guests.add(guest);
    this.timer.start();
    const here = this.groups.get(group) ?? new Set();
    this.groups.set(group, here.add(guest));
    if (here.size > this.options.perAddress) {
      this.sendAway(here);
    }
    if (this.guests.size > this.options.inAll) {
      this.sendAway(this.guests);
    }
    return () => this.forget(guest);
  }

  stop(): void {
    this.timer.stop();
  }

  private look(): void {
    if (this.guests.size === 0) {
      this.timer.stop();
    }
    const before = this.now() - this.options.patienceMs;
    for (const guest of this.guests) {
      if (guest.since > before) {
        break;
      }
      this.forget(guest);
      guest.end();
    }
  }

  /** Closes the one of some connections that has waited longest. */
  private sendAway(guests: Set<Guest>): void {
    const [first] = guests;
    if (first !== undefined && this.now() - first.since >= (this.options.graceMs ?? 0)) {
      this.forget(first);
      first.end();
    }
  }

  private forget(guest: Guest): void {
    this.guests.delete(guest);
    const here = this.groups.get(guest.group);
    here?.delete(guest);
    if (here?.size === 0) {
      this.groups.delete(guest.group);
    }
  }
}
