import { BatchQueue } from './batch-queue.js';

/** What is looked up in one query at most. */
const CHUNK = 500;
/** Pause between queries while many ask, in milliseconds. */
const GATHER_MS = 4;

interface Waiter<Value> {
  resolve(value: Value | undefined): void;
  reject(error: unknown): void;
}

/**
 * Looks up many things in one query: all that are asked for while the query before is under way, each once. An answer is
 * never older than the question.
 */
export class TurnReader<Value> {
  private readonly waiting = new Map<string, Array<Waiter<Value>>>();
  private readonly keys = new BatchQueue<string>((keys) => this.lookUp(keys), CHUNK, GATHER_MS);

  /** @param query looks up some keys; those that do not exist are left out */
  constructor(private readonly query: (keys: readonly string[]) => Promise<ReadonlyMap<string, Value>>) {}

  /**
   * @returns undefined when there is no such thing
   * @throws what the query that it was part of failed with
   */
  read(key: string): Promise<Value | undefined> {
    return new Promise((resolve, reject) => {
      const waiters = this.waiting.get(key);
      if (waiters !== undefined) {
        waiters.push({ resolve, reject });
      } else {
        this.waiting.set(key, [{ resolve, reject }]);
        this.keys.add(key);
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
