/** A pause that gathers many and is noticed by nobody, in milliseconds. */
export const GATHER_MS = 4;

export interface BatchQueueOptions<Item> {
  /** Most items of a batch. */
  readonly max?: number;
  /** Pause after a batch that shows that many come, in milliseconds. */
  readonly gatherMs?: number;
  /** Whether a batch shows that; when absent, one of several items does. */
  readonly isSignOfMany?: (items: readonly Item[]) => boolean;
  /** Whether what waits may wait for the end of a pause; when absent, everything may. */
  readonly mayWait?: (items: readonly Item[]) => boolean;
}

const several = (items: readonly unknown[]): boolean => items.length > 1;

/**
 * Collects what comes while the batch before is under way, and hands it on together: the busier it gets, the more one
 * batch has. What comes when nothing is under way waits for the end of the turn of the event loop.
 */
export class BatchQueue<Item> {
  private waiting: Item[] = [];
  private underWay = false;
  /** At the end of this turn it is decided whether what waits is handed on. */
  private deciding = false;
  /** Until when the next batch waits, on the clock of `performance.now()`. */
  private pausedUntil = 0;
  /** Runs only where something waits for it: a process that has little to do is not woken for nothing. */
  private pause: NodeJS.Timeout | undefined;
  private readonly max: number;
  private readonly gatherMs: number;
  private readonly isSignOfMany: (items: readonly Item[]) => boolean;
  private readonly mayWait: (items: readonly Item[]) => boolean;

  /**
   * @param take called with at least one item, in the order in which they were added. The next batch begins when its promise
   * has resolved; it must not reject.
   */
  constructor(
    private readonly take: (items: readonly Item[]) => Promise<void>,
    options: BatchQueueOptions<Item> = {},
  ) {
    const { max = Number.POSITIVE_INFINITY, gatherMs = 0, isSignOfMany = several, mayWait = () => true } = options;
    this.max = max;
    this.gatherMs = gatherMs;
    this.isSignOfMany = isSignOfMany;
    this.mayWait = mayWait;
  }

  add(item: Item): void {
    this.waiting.push(item);
    if (!this.underWay) {
      this.decideSoon();
    }
  }

  private decideSoon(): void {
    if (!this.deciding) {
      this.deciding = true;
      setImmediate(this.decide);
    }
  }

  private readonly decide = (): void => {
    this.deciding = false;
    if (this.underWay) {
      return;
    }
    const rest = this.gatherMs > 0 ? this.pausedUntil - performance.now() : 0;
    if (rest > 0 && this.mayWait(this.waiting)) {
      this.pause ??= setTimeout(this.handOn, rest);
    } else {
      clearTimeout(this.pause);
      void this.handOn();
    }
  };

  private readonly handOn = async (): Promise<void> => {
    const { waiting, max } = this;
    this.waiting = waiting.length > max ? waiting.splice(max) : [];
    this.pause = undefined;
    this.underWay = true;
    await this.take(waiting);
    this.underWay = false;
    if (this.gatherMs > 0 && this.isSignOfMany(waiting)) {
      this.pausedUntil = performance.now() + this.gatherMs;
    }
    if (this.waiting.length > 0) {
      this.decideSoon();
    }
  };
}
