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
    this.busy = this.waiting.length > 0;
    if (this.busy) {
      setImmediate(this.handOn);
    }
  };

  /**
   * @param take called with at least one item, in the order in which they were added. The next batch begins when its promise
   * has resolved; it must not reject.
   * @param max most items of a batch
   */
  constructor(
    private readonly take: (items: readonly Item[]) => Promise<void>,
    private readonly max = Number.POSITIVE_INFINITY,
  ) {}

  add(item: Item): void {
    this.waiting.push(item);
    if (!this.busy) {
      this.busy = true;
      setImmediate(this.handOn);
    }
  }
}
