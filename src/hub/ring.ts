import { decodeStreamMessage } from '../protocol/stream-message.js';
import type { HubEvent } from './stream.js';

/** Bytes that all rings of a worker may keep together. */
export class RingBudget {
  used = 0;

  constructor(readonly limit: number) {}
}

/** Messages one behind the other, the first of them with `seq` `from`. */
interface Chunk {
  readonly from: number;
  readonly bytes: Buffer;
  /** Where each message ends. */
  readonly ends: number[];
}

/** Chunks of a stream grow from the first size to the last one: most streams are quiet. */
const FIRST_CHUNK_BYTES = 1_024;
const MAX_CHUNK_BYTES = 16_384;

/**
 * The most recent events of one stream, contiguous up to the stream's head, for clients that were away for a moment.
 * Bounded by a count of its own and by a budget that all rings share: over budget, a ring that takes an event gives up
 * its oldest ones, so the busiest streams pay.
 *
 * Events are kept as the bytes that the broker brought, in chunks: thousands of small objects that live for a while are
 * what makes garbage collection slow, and with it the events of everybody.
 */
export class Ring {
  private chunks: Chunk[] = [];
  /** Events in all chunks; the oldest ones may be more than the capacity. */
  private kept = 0;
  /** Events that somebody asked for in this turn: whoever comes back together gets the same ones, and their frames. */
  private decoded: Map<number, HubEvent> | undefined;

  constructor(
    private readonly capacity: number,
    private readonly budget: RingBudget,
  ) {}

  get length(): number {
    return Math.min(this.kept, this.capacity);
  }

  push({ seq, bytes }: HubEvent): void {
    let chunk = this.chunks.at(-1);
    let end = chunk?.ends.at(-1) ?? 0;
    if (chunk === undefined || end + bytes.length > chunk.bytes.length) {
      const size = Math.min(MAX_CHUNK_BYTES, chunk === undefined ? FIRST_CHUNK_BYTES : chunk.bytes.length * 2);
      chunk = { from: seq, bytes: Buffer.allocUnsafeSlow(Math.max(size, bytes.length)), ends: [] };
      end = 0;
      this.chunks.push(chunk);
      this.budget.used += chunk.bytes.length;
    }
    chunk.bytes.set(bytes, end);
    chunk.ends.push(end + bytes.length);
    this.kept += 1;
    for (let [oldest] = this.chunks; oldest !== undefined; [oldest] = this.chunks) {
      if (this.kept - oldest.ends.length < this.capacity && this.budget.used <= this.budget.limit) {
        break;
      }
      this.chunks.shift();
      this.kept -= oldest.ends.length;
      this.budget.used -= oldest.bytes.length;
    }
  }

  /** Whether every event after `seq`, up to the head `last`, is here. */
  covers(seq: number, last: number): boolean {
    return seq >= last - this.length;
  }

  /** Events with a higher `seq`, oldest first. Only where `covers(seq, last)`. */
  after(seq: number, last: number): HubEvent[] {
    const events: HubEvent[] = [];
    if (seq >= last) {
      return events;
    }
    if (this.decoded === undefined) {
      this.decoded = new Map();
      setImmediate(() => {
        this.decoded = undefined;
      });
    }
    for (const { from, bytes, ends } of this.chunks) {
      for (let index = Math.max(0, seq + 1 - from); index < ends.length; index += 1) {
        let event = this.decoded.get(from + index);
        if (event === undefined) {
          event = decodeStreamMessage(bytes.subarray(index === 0 ? 0 : ends[index - 1], ends[index]))!;
          this.decoded.set(event.seq, event);
        }
        events.push(event);
      }
    }
    return events;
  }

  clear(): void {
    for (const { bytes } of this.chunks) {
      this.budget.used -= bytes.length;
    }
    this.chunks = [];
    this.kept = 0;
    this.decoded = undefined;
  }
}
