import { TurnBatch } from './turn-batch.js';

/** What is looked up in one query at most. */
const CHUNK = 500;

interface Waiter<Value> {
  resolve(value: Value | undefined): void;
  reject(error: unknown): void;
}

/** Looks up many things in one query: all that are asked for in one turn of the event loop, each once. */
export class TurnReader<Value> {
  private waiting = new Map<string, Array<Waiter<Value>>>();
  private readonly keys = new TurnBatch<string>((keys) => this.flush(keys));

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

  private flush(keys: readonly string[]): void {
    const { waiting } = this;
    this.waiting = new Map();
    for (const chunk of chunksOf(keys)) {
      const waitersOf = chunk.map((key) => [key, waiting.get(key)!] as const);
      this.query(chunk).then(
        (values) => {
          for (const [key, waiters] of waitersOf) {
            for (const { resolve } of waiters) {
              resolve(values.get(key));
            }
          }
        },
        (error: unknown) => {
          for (const [, waiters] of waitersOf) {
            for (const { reject } of waiters) {
              reject(error);
            }
          }
        },
      );
    }
  }
}

function* chunksOf(keys: readonly string[]): Iterable<readonly string[]> {
  for (let start = 0; start < keys.length; start += CHUNK) {
    yield keys.slice(start, start + CHUNK);
  }
}
