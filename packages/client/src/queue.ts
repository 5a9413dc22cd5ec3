/** Values that wait for a reader. With more than `limit` the oldest are replaced by one word that says so. */
export class Queue<T> {
  readonly #limit: number;
  readonly #overflowed: () => T;
  #values: T[] = [];
  #wake: (() => void) | undefined;
  #ending: { readonly error?: unknown } | undefined;

  /** @param overflowed makes what stands for all that was dropped */
  constructor(limit: number, overflowed: () => T) {
    this.#limit = limit;
    this.#overflowed = overflowed;
  }

  push(value: T): void {
    if (this.#values.push(value) > this.#limit) {
      this.#values = [this.#overflowed()];
    }
    this.#wake?.();
  }

  /** What waits is still read; then the reader is told the end. */
  end(error?: unknown): void {
    this.#ending ??= error === undefined ? {} : { error };
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<T, void, undefined> {
    for (;;) {
      while (this.#values.length > 0) {
        yield this.#values.shift()!;
      }
      if (this.#ending !== undefined) {
        if ('error' in this.#ending) {
          throw this.#ending.error;
        }
        return;
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
  }
}
