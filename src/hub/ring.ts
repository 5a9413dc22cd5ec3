import type { HubEvent } from './stream.js';

/** Bytes that all rings of a worker may keep together. */
export class RingBudget {
  used = 0;

  constructor(readonly limit: number) {}
}

/** Rough size of an event with the frames that are built from it. */
const weight = (event: HubEvent): number => event.payload.length * 3 + 200;

/**
 * The most recent events of one stream, contiguous up to the stream's head, for clients that were away for a moment.
 * Bounded by a count of its own and by a budget that all rings share: over budget, a ring that takes an event gives up
 * its oldest ones, so the busiest streams pay.
 */
export class Ring {
  private events: HubEvent[] = [];
  /** Index of the oldest event that is still kept; the array is cut now and then, not at every step. */
  private first = 0;

  constructor(
    private readonly capacity: number,
    private readonly budget: RingBudget,
  ) {}

  get length(): number {
    return this.events.length - this.first;
  }

  push(event: HubEvent): void {
    this.events.push(event);
    this.budget.used += weight(event);
    while (this.length > this.capacity || (this.budget.used > this.budget.limit && this.length > 0)) {
      this.budget.used -= weight(this.events[this.first]!);
      this.first += 1;
    }
    if (this.first > 64 && this.first * 2 > this.events.length) {
      this.events = this.events.slice(this.first);
      this.first = 0;
    }
  }

  /** Whether every event after `seq`, up to the head `last`, is here. */
  covers(seq: number, last: number): boolean {
    return seq >= last - this.length;
  }

  /** Events with a higher `seq`, oldest first. Only where `covers(seq, last)`. */
  after(seq: number, last: number): HubEvent[] {
    return seq >= last ? [] : this.events.slice(this.events.length - (last - seq));
  }

  clear(): void {
    for (let index = this.first; index < this.events.length; index += 1) {
      this.budget.used -= weight(this.events[index]!);
    }
    this.events = [];
    this.first = 0;
  }
}
