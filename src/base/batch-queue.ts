export interface BatchQueueOptions<Item> {
  /** Most items of a batch. */
  readonly max?: number;
  /** Pause between a batch that is a sign of many more and the next one, in milliseconds. */
  readonly gatherMs?: number;
  /** Which batches are such a sign; when absent, those of several items. */
  readonly isSignOfMany?: (items: readonly Item[]) => boolean;
}

const several = (items: readonly unknown[]): boolean => items.length > 1;

/**
 * Collects what comes while the batch before is under way, and hands it on together: the busier it gets, the more one
 * batch has. What comes when nothing is under way waits for the end of the turn of the event loop.
 */
export class BatchQueue<Item> {
  private waiting: Item[] = [];
  private busy = false;
  /** Until when the next batch waits, on the clock of `performance.now()`. */
  private pausedUntil = 0;
  private readonly max: number;
  private readonly gatherMs: number;
  private readonly isSignOfMany: (items: readonly Item[]) => boolean;
  private readonly handOn = async (): Promise<void> => {
    const { waiting, max } = this;
    this.waiting = waiting.length > max ? waiting.splice(max) : [];
    await this.take(waiting);
    if (this.gatherMs > 0 && this.isSignOfMany(waiting)) {
      this.pausedUntil = performance.now() + this.gatherMs;
    }
    this.busy = this.waiting.length > 0;
    if (this.busy) {
      this.handOnSoon();
    }
  };

  /**
   * @param take called with at least one item, in the order in which they were added. The next batch begins when its promise
   * has resolved; it must not reject.
   */
  constructor(
    private readonly take: (items: readonly Item[]) => Promise<void>,
    { max = Number.POSITIVE_INFINITY, gatherMs = 0, isSignOfMany = several }: BatchQueueOptions<Item> = {},
  ) {
    this.max = max;
    this.gatherMs = gatherMs;
    this.isSignOfMany = isSignOfMany;
  }

  add(item: Item): void {
    this.waiting.push(item);
    if (!this.busy) {
      this.busy = true;
      this.handOnSoon();
    }
  }

  private handOnSoon(): void {
    // A timer only where something waits for it: a process that has little to do is not woken for nothing.
    const pause = this.gatherMs > 0 ? this.pausedUntil - performance.now() : 0;
    if (pause > 0) {
      setTimeout(this.handOn, pause);
    } else {
      setImmediate(this.handOn);
    }
  }
}
