import { setTimeout as sleep } from 'node:timers/promises';

interface Releaser {
  readonly what: string;
  readonly release: () => unknown;
}

/**
 * Whoever opens a thing pushes how to release it. `release` runs the list backwards, so a thing goes before what it was built
 * on. Example: the database is opened first, the broker second; the broker is stopped first, the database second.
 */
export class Releasers {
  private readonly list: Releaser[] = [];
  private releasing: Promise<void> | undefined;

  /**
   * @param onError called with each failure; the other things are released all the same
   * @param deadlineMs how long all releases together may take; the rest is then started, and not waited for
   */
  constructor(
    private readonly onError: (what: string, error: unknown) => void,
    private readonly deadlineMs = 15_000,
  ) {}

  /** @param release ends the thing; what it returns is awaited. When everything was released before, it runs at once. */
  push(what: string, release: () => unknown): void {
    if (this.releasing === undefined) {
      this.list.push({ what, release });
    } else {
      void this.run({ what, release });
    }
  }

  /** Releases everything. Idempotent: all callers get the same promise, which never rejects. */
  release(): Promise<void> {
    this.releasing ??= this.releaseAll();
    return this.releasing;
  }

  private async releaseAll(): Promise<void> {
    const end = performance.now() + this.deadlineMs;
    for (let releaser = this.list.pop(); releaser !== undefined; releaser = this.list.pop()) {
      const patience = new AbortController();
      const tooLate = sleep(Math.max(0, end - performance.now()), undefined, { signal: patience.signal, ref: false });
      await Promise.race([this.run(releaser), tooLate]);
      patience.abort();
      tooLate.catch(() => {});
    }
  }

  private async run({ what, release }: Releaser): Promise<void> {
    try {
      await release();
    } catch (error) {
      this.onError(what, error);
    }
  }
}
