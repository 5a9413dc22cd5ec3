import type { Locks } from '@taskwire/client/tabs';

/** Web Locks, as far as tabs use them: one holder of a name at a time, in the order in which they asked. */
export class FakeLocks implements Locks {
  private readonly last = new Map<string, Promise<unknown>>();

  request(name: string, { signal }: { signal?: AbortSignal }, work: () => Promise<unknown>): Promise<unknown> {
    const before = this.last.get(name) ?? Promise.resolve();
    const mine = before.then(() => (signal?.aborted === true ? undefined : work()));
    this.last.set(
      name,
      mine.catch(() => {}),
    );
    return mine;
  }
}
