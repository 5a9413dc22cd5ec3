/**
 * Collects what comes while the batch before is under way, and hands it on together: the busier it gets, the more one
 * batch has. What comes when nothing is under way waits for the end of the turn of the event loop.
 */
export class BatchQueue<Item> {
  private waiting: Item[] = [];
  private busy = false;
  private readonly handOn = async (): Promise<void> => {
    const { waiting, max } = this;
    this.waiting = waiting.length > max ? waiting.splice(max) : [];
    await this.take(waiting);
    if (this.gatherMs > 0 && waiting.length > 1) {
      // Several at once are a sign of many: more will come in a moment.
      setTimeout(this.goOn, this.gatherMs);
    } else {
      this.goOn();
    }
  };
  private readonly goOn = (): void => {
    this.busy = this.waiting.length > 0;
    if (this.busy) {
      setImmediate(this.handOn);
    }
  };

  /**
   * @param take called with at least one item, in the order in which they were added. The next batch begins when its promise
   * has resolved; it must not reject.
   * @param max most items of a batch
   * @param gatherMs pause after a batch of several, in milliseconds
   */
  constructor(
    private readonly take: (items: readonly Item[]) => Promise<void>,
    private readonly max = Number.POSITIVE_INFINITY,
    private readonly gatherMs = 0,
  ) {}

  add(item: Item): void {
    this.waiting.push(item);
    if (!this.busy) {
      this.busy = true;
      setImmediate(this.handOn);
    }
  }
}
