import { FairQueue } from '../base/fair-queue.js';
import { TaskwireError } from '../protocol/errors.js';
import { StreamQueue } from './stream-queue.js';

/** Where REST requests wait. What waits, waits by key or by stream, and those take turns. */
export interface RestQueues {
  /** Writes, by the user whose stream they go to. */
  readonly writes: Pick<StreamQueue, 'run'>;
  /** Reads, by the id of the API key that asks: while the database works for them. */
  readonly reads: Pick<FairQueue, 'run'>;
  /** Answers to reads, by key: from the question until the client has taken the answer. */
  readonly answers: Pick<FairQueue, 'run'>;
  /** Bodies that are on their way, by key. */
  readonly bodies: Pick<FairQueue, 'run'>;
}

/** Requests of one key that wait. */
const MAX_WAITING = 200;
/** Answers to reads of one key that are made or sent at a time. A page may have 4 MiB, and its client may read it slowly. */
const ANSWERS_PER_KEY = 8;
/** Bodies of one key that come at a time. Each may be of MAX_BODY_BYTES, and may come slowly. */
const BODIES_PER_KEY = 32;
const RETRY_MS = 1_000;

const tooMany = (what: string) => () =>
  new TaskwireError('RATE_LIMIT_EXCEEDED', {
    message: `Too many ${what} of this key wait`,
    details: { limit: MAX_WAITING },
    retryAfterMs: RETRY_MS,
  });

/** @param sizes statements that run at a time, of each kind */
export function restQueues(sizes: { readonly writes: number; readonly reads: number }): RestQueues {
  // What a slow client holds up is nobody's but its key's: in these, keys do not wait for each other.
  const perKey = (most: number, what: string): FairQueue =>
    new FairQueue({
      concurrency: Number.POSITIVE_INFINITY,
      concurrencyPerKey: most,
      waitingPerKey: MAX_WAITING,
      refusal: tooMany(what),
    });
  return {
    writes: new StreamQueue({ concurrency: sizes.writes }),
    reads: new FairQueue({ concurrency: sizes.reads, concurrencyPerKey: Math.max(1, sizes.reads - 1) }),
    answers: perKey(ANSWERS_PER_KEY, 'reads'),
    bodies: perKey(BODIES_PER_KEY, 'request bodies'),
  };
}
