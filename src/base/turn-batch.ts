/** Collects what one turn of the event loop brings, and hands it on together at the end of the turn. */
export class TurnBatch<Item> {
  private items: Item[] = [];
  private readonly handOn = (): void => {
    const { items } = this;
    this.items = [];
    this.take(items);
  };

  /** @param take called once a turn, with at least one item, in the order in which they were added */
  constructor(private readonly take: (items: Item[]) => void) {}

  add(item: Item): void {
    if (this.items.push(item) === 1) {
      setImmediate(this.handOn);
    }
  }
}
