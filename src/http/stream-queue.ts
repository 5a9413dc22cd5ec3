import { LRUCache } from 'lru-cache';
import { FairQueue } from '../base/fair-queue.js';
import { TaskwireError } from '../protocol/errors.js';

export interface StreamQueueOptions {
  /** Statements that run at a time. */
  readonly concurrency: number;
  /** Milliseconds of a clock that never steps. */
  readonly now?: () => number;
}

/** Statements of one stream that run at a time. More would only wait for each other in the database. */
const WRITES_PER_STREAM = 2;
/** Writes of one stream that wait. */
const MAX_WAITING = 200;
/** How long a write may find its stream locked, in milliseconds, before it is refused. */
const PATIENCE_MS = 10_000;
const RETRY_MS = 1_000;
/** Streams that are known to be locked. */
const MAX_LOCKED = 10_000;

const busy = (): TaskwireError =>
  new TaskwireError('STREAM_BUSY', { details: { limit: MAX_WAITING }, retryAfterMs: RETRY_MS });

/** What came of one attempt: a value, or the refusal of a statement that found its stream locked. */
type Outcome<T> = { readonly value: T } | { readonly locked: TaskwireError };

/**
 * Where writes wait for the database: by stream, and streams take turns.
 *
 * A statement that finds a row locked gives up after a fifth of a second, which is its connection's `lock_timeout`. From then on
 * its stream waits apart, with all others of which somebody keeps a row: they have one connection together, until a write
 * of theirs succeeds. So a hundred locked streams take one connection from the others, and not all of them.
 */
export class StreamQueue {
  private readonly quick: FairQueue;
  private readonly patient: FairQueue;
  private readonly locked = new LRUCache<string, true>({ max: MAX_LOCKED });
  private readonly now: () => number;

  constructor({ concurrency, now = () => performance.now() }: StreamQueueOptions) {
    const queue = (size: number): FairQueue =>
      new FairQueue({
        concurrency: size,
        concurrencyPerKey: Math.max(1, Math.min(WRITES_PER_STREAM, size - 1)),
        waitingPerKey: MAX_WAITING,
        refusal: busy,
      });
    this.now = now;
    this.quick = queue(Math.max(1, concurrency - 1));
    // With one connection there is nothing to keep apart.
    this.patient = concurrency > 1 ? queue(1) : this.quick;
  }

  /**
   * Makes a write when it is the turn of its stream. One that finds it locked is made again, for ten seconds: its statement
   * has changed nothing.
   * @param owner whose stream it goes to
   * @throws TaskwireError STREAM_BUSY when too many writes of the stream wait, or it stays locked; else what the task throws
   */
  async run<T>(owner: string, task: () => Promise<T>): Promise<T> {
    const until = this.now() + PATIENCE_MS;
    for (;;) {
      const outcome = this.locked.has(owner)
        ? await this.patient.run(owner, async () => (this.now() < until ? attempt(task) : { locked: busy() }))
        : // It may be found locked while this one waits.
          await this.quick.run(owner, async () => (this.locked.has(owner) ? { locked: busy() } : attempt(task)));
      if ('value' in outcome) {
        this.locked.delete(owner);
        return outcome.value;
      }
      this.locked.set(owner, true);
      if (this.now() >= until) {
        throw outcome.locked;
      }
    }
  }
}

async function attempt<T>(task: () => Promise<T>): Promise<Outcome<T>> {
  try {
    return { value: await task() };
  } catch (thrown) {
    if (thrown instanceof TaskwireError && thrown.code === 'STREAM_BUSY') {
      return { locked: thrown };
    }
    throw thrown;
  }
}
