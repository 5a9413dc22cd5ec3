import type { Expected } from '../load/messages.js';

/** Account of what was sent, by number of the room. */
export class Tally {
  private readonly counts: Float64Array;
  private readonly sums: Float64Array;
  private stamps: number[] = [];
  sent = 0;

  constructor(rooms: number) {
    this.counts = new Float64Array(rooms);
    this.sums = new Float64Array(rooms);
  }

  begin(): void {
    this.counts.fill(0);
    this.sums.fill(0);
    this.stamps = [];
    this.sent = 0;
  }

  /** @param at when the event left for the servers, in microseconds of the common clock */
  add(room: number, seq: number, at: number): void {
    this.counts[room]! += 1;
    this.sums[room]! += seq;
    this.stamps.push(room, seq, at);
    this.sent += 1;
  }

  /** Deliveries that it takes, with so many members in each room. */
  deliveries(members: ArrayLike<number>): number {
    return this.counts.reduce((sum, count, room) => sum + count * members[room]!, 0);
  }

  get firstMicros(): number {
    return this.stamps[2] ?? Number.NaN;
  }

  get expected(): Expected {
    return { counts: this.counts, sums: this.sums, stamps: Float64Array.from(this.stamps) };
  }
}
