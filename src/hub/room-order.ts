/**
 * Lets what a connection asks of a room take effect in the order in which it was sent: a request waits for the requests
 * of the same room that came before it, and for nothing else.
 */
export class RoomOrder {
  /** The last request of each room that has not taken effect. Most connections have none: they keep no map. */
  private last: Map<string, Promise<void>> | undefined;
  private count = 0;

  /** Requests that have not taken effect. */
  get size(): number {
    return this.count;
  }

  /** Whether a request of the room has not taken effect. */
  waits(room: string): boolean {
    return this.last?.has(room) === true;
  }

  /** @returns when everything that was asked for so far has taken effect */
  async done(): Promise<void> {
    await Promise.all(this.last?.values() ?? []);
  }

  /**
   * @param request does what is asked; never rejects. Called at once when nothing of the room waits.
   * @returns when it has taken effect; undefined when it has already
   */
  take(room: string, request: () => Promise<void> | undefined): Promise<void> | undefined {
    const before = this.last?.get(room);
    const effect = before === undefined ? request() : before.then(request);
    if (effect === undefined) {
      return undefined;
    }
    this.last ??= new Map();
    this.last.set(room, effect);
    this.count += 1;
    return effect.then(() => this.settled(room, effect));
  }

  private settled(room: string, effect: Promise<void>): void {
    this.count -= 1;
    if (this.last?.get(room) === effect) {
      this.last.delete(room);
      if (this.last.size === 0) {
        this.last = undefined;
      }
    }
  }
}
