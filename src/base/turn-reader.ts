import { BatchQueue, GATHER_MS } from './batch-queue.js';

/** What is looked up in one query at most. */
const CHUNK = 500;

interface Waiter<Value> {
  resolve(value: Value | undefined): void;
  reject(error: unknown): void;
}

interface Question {
  readonly key: string;
  readonly arriving: boolean;
}

/**
 * Looks up many things in one query: all that are asked for while the query before is under way, or a moment after one
 * that is a sign of many more. Each is looked up once, and an answer is never older than the question.
 */
export class TurnReader<Value> {
  private readonly waiting = new Map<string, Array<Waiter<Value>>>();
  private readonly questions: BatchQueue<Question>;

  /**
   * @param query looks up some keys; those that do not exist are left out
   * @param gatherMs pause after a query that is a sign of many more, in milliseconds
   */
  constructor(
    private readonly query: (keys: readonly string[]) => Promise<ReadonlyMap<string, Value>>,
    gatherMs = GATHER_MS,
  ) {
    this.questions = new BatchQueue((questions) => this.lookUp(questions.map(({ key }) => key)), {
      max: CHUNK,
      gatherMs,
      isSignOfMany: (questions) => questions.length > 1 || questions.some(({ arriving }) => arriving),
    });
  }

  /**
   * @param arriving somebody asks who has just come, as others may who come now: their questions wait a moment for each other
   * @returns undefined when there is no such thing
   * @throws what the query that it was part of failed with
   */
  read(key: string, arriving = false): Promise<Value | undefined> {
    return new Promise((resolve, reject) => {
      const waiters = this.waiting.get(key);
      if (waiters !== undefined) {
        waiters.push({ resolve, reject });
      } else {
        this.waiting.set(key, [{ resolve, reject }]);
        this.questions.add({ key, arriving });
      }
    });
  }

  /** Looks all of them up chunk by chunk, and gives way between chunks. */
  async readMany(keys: readonly string[], take: (key: string, value: Value) => void): Promise<void> {
    for (const chunk of chunksOf(keys)) {
      for (const [key, value] of await this.query(chunk)) {
        take(key, value);
      }
    }
  }

  private async lookUp(keys: readonly string[]): Promise<void> {
    const waitersOf = keys.map((key) => [key, this.waiting.get(key)!] as const);
    for (const key of keys) {
      // Whoever asks from now on is answered by the next query.
      this.waiting.delete(key);
    }
    try {
      const values = await this.query(keys);
      for (const [key, waiters] of waitersOf) {
        for (const { resolve } of waiters) {
          resolve(values.get(key));
        }
      }
    } catch (error) {
      for (const [, waiters] of waitersOf) {
        for (const { reject } of waiters) {
          reject(error);
        }
      }
    }
  }
}

function* chunksOf(keys: readonly string[]): Iterable<readonly string[]> {
  for (let start = 0; start < keys.length; start += CHUNK) {
    yield keys.slice(start, start + CHUNK);
  }
}
