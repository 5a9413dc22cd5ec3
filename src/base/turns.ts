/** What waits, by key: keys take turns, and what one key has keeps its order. */
export class Turns<Item> {
  /** In the order of their turns. */
  private readonly lanes = new Map<string, Item[]>();

  /** Whether nothing waits. */
  get empty(): boolean {
    return this.lanes.size === 0;
  }

  push(key: string, item: Item): void {
    const lane = this.lanes.get(key);
    if (lane === undefined) {
      this.lanes.set(key, [item]);
    } else {
      lane.push(item);
    }
  }

  /** Takes the next one out. */
  shift(): Item | undefined {
    const [next] = this.lanes;
    if (next === undefined) {
      return undefined;
    }
    const [key, lane] = next;
    const item = lane.shift();
    this.lanes.delete(key);
    if (lane.length > 0) {
      this.lanes.set(key, lane);
    }
    return item;
  }

  /** Takes all of them out. */
  clear(): Item[] {
    const items = [...this.lanes.values()].flat();
    this.lanes.clear();
    return items;
  }
}
