import { decodeStreamMessage } from '../protocol/stream-message.js';
import type { HubEvent } from './message.js';

/** Messages one behind the other, the first of them with `seq` `from`. */
interface Chunk {
  readonly ring: Ring;
  readonly from: number;
  readonly bytes: Buffer;
  /** Where each message ends. */
  readonly ends: number[];
}

/** Bytes that all rings of a worker may keep together: over the limit, the oldest ones of all are given up. */
export class RingBudget {
  private bytes = 0;
  /** Oldest first. */
  private readonly chunks = new Set<Chunk>();

  constructor(readonly limit: number) {}

  get used(): number {
    return this.bytes;
  }

  take(chunk: Chunk): void {
    this.chunks.add(chunk);
    this.bytes += chunk.bytes.length;
  }

  give(chunk: Chunk): void {
    this.chunks.delete(chunk);
    this.bytes -= chunk.bytes.length;
  }

  enforce(): void {
    while (this.bytes > this.limit) {
      const [oldest] = this.chunks;
      oldest!.ring.shed();
    }
  }
}

/** Chunks of a stream grow from the first size to the last one: most streams are quiet. */
const FIRST_CHUNK_BYTES = 1_024;
const MAX_CHUNK_BYTES = 16_384;

/**
 * The most recent events of one stream, contiguous up to the stream's head, for clients that were away for a moment.
 * Bounded by a count of its own and by a budget that all rings share.
 *
 * Events are kept as bytes, in chunks. Thousands of small objects that live for a while would make garbage collection slow,
 * and with it all deliveries.
 */
export class Ring {
  private readonly chunks: Chunk[] = [];
  /** Events in all chunks; the oldest ones may be more than the capacity. */
  private kept = 0;
  /** Events that were decoded in this turn of the event loop: clients that resume together share them and their frames. */
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
      chunk = { ring: this, from: seq, bytes: Buffer.allocUnsafeSlow(Math.max(size, bytes.length)), ends: [] };
      end = 0;
      this.chunks.push(chunk);
      this.budget.take(chunk);
    }
    chunk.bytes.set(bytes, end);
    chunk.ends.push(end + bytes.length);
    this.kept += 1;
    while (this.kept - this.chunks[0]!.ends.length >= this.capacity) {
      this.shed();
    }
    this.budget.enforce();
  }

  /** Gives up the oldest chunk. */
  shed(): void {
    const oldest = this.chunks.shift()!;
    this.kept -= oldest.ends.length;
    this.budget.give(oldest);
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
    while (this.chunks.length > 0) {
      this.shed();
    }
    this.decoded = undefined;
  }
}
