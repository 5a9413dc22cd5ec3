/** Collects what comes together, and hands it on together. */
export class TurnBatch<Item> {
  private items: Item[] = [];
  private readonly handOn = (): void => {
    const { items } = this;
    this.items = [];
    this.take(items);
  };

  /**
   * @param take called with at least one item, in the order in which they were added
   * @param later when: at the end of the turn of the event loop; with `queueMicrotask`, as soon as the running function
   * has returned, so that one read from a socket is one batch
   */
  constructor(
    private readonly take: (items: Item[]) => void,
    private readonly later: (handOn: () => void) => unknown = setImmediate,
  ) {}

  add(item: Item): void {
    if (this.items.push(item) === 1) {
      this.later.call(undefined, this.handOn);
    }
  }
}
