import { FairQueue } from '../base/fair-queue.js';
import { TaskwireError } from '../protocol/errors.js';

/** Where REST requests wait for the database: by key, and keys take turns. */
export interface RestQueues {
  /** Writes, by the user whose stream they go to. */
  readonly writes: Pick<FairQueue, 'run'>;
  /** Reads, by the id of the API key that asks. */
  readonly reads: Pick<FairQueue, 'run'>;
}

/** Statements of one stream that run at a time. More would only wait for each other in the database. */
const WRITES_PER_STREAM = 2;
/** Requests of one key that wait. */
const MAX_WAITING = 200;
const RETRY_MS = 1_000;

/** @param sizes statements that run at a time, of each kind */
export function restQueues(sizes: { readonly writes: number; readonly reads: number }): RestQueues {
  return {
    writes: new FairQueue({
      concurrency: sizes.writes,
      concurrencyPerKey: Math.max(1, Math.min(WRITES_PER_STREAM, sizes.writes - 1)),
      waitingPerKey: MAX_WAITING,
      refusal: () => new TaskwireError('STREAM_BUSY', { details: { limit: MAX_WAITING }, retryAfterMs: RETRY_MS }),
    }),
    reads: new FairQueue({
      concurrency: sizes.reads,
      concurrencyPerKey: Math.max(1, sizes.reads - 1),
      waitingPerKey: MAX_WAITING,
      refusal: () =>
        new TaskwireError('RATE_LIMIT_EXCEEDED', {
          message: 'Too many reads of this key wait',
          details: { limit: MAX_WAITING },
          retryAfterMs: RETRY_MS,
        }),
    }),
  };
}
