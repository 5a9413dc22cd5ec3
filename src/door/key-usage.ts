import type { Logger } from '../base/logger.js';

export interface KeyUsageOptions {
  /** Stores the last use of some keys; rejects when it cannot. */
  readonly write: (uses: ReadonlyMap<string, Date>) => Promise<void>;
  readonly logger: Logger;
  /** Pause between two writes, in milliseconds (10,000). */
  readonly intervalMs?: number;
}

/** Uses that wait to be written. A worker that has seen more keys than this since the last write loses the oldest ones. */
const MAX_WAITING = 50_000;

/** Collects when keys were used last and writes that down in batches. */
export class KeyUsage {
  private waiting = new Map<string, Date>();
  private writing: Promise<void> = Promise.resolve();
  private timer: NodeJS.Timeout | undefined;

  constructor(private readonly options: KeyUsageOptions) {}

  /** Notes that a key was used now. */
  note(keyId: string): void {
    // Taken out first, so that the map stays in order of use and its first entry is the oldest.
    this.waiting.delete(keyId);
    this.waiting.set(keyId, new Date());
    this.trim();
  }

  start(): void {
    this.timer ??= setInterval(() => void this.flush(), this.options.intervalMs ?? 10_000).unref();
  }

  /** Writes what waits, for the last time. Never rejects. */
  async stop(): Promise<void> {
    clearInterval(this.timer);
    this.timer = undefined;
    await this.flush();
  }

  /** Writes what waits; a failure is logged and what could not be written waits for the next time. */
  flush(): Promise<void> {
    this.writing = this.writing.then(() => this.write());
    return this.writing;
  }

  private async write(): Promise<void> {
    if (this.waiting.size === 0) {
      return;
    }
    const uses = this.waiting;
    this.waiting = new Map();
    try {
      await this.options.write(uses);
    } catch (error) {
      this.options.logger.warn('last use of API keys not written yet', { keys: uses.size, error });
      // Later uses of the same keys replace those that failed.
      const later = this.waiting;
      this.waiting = new Map([...uses].filter(([keyId]) => !later.has(keyId)).concat([...later]));
      this.trim();
    }
  }

  private trim(): void {
    for (const keyId of this.waiting.keys()) {
      if (this.waiting.size <= MAX_WAITING) {
        return;
      }
      this.waiting.delete(keyId);
    }
  }
}
