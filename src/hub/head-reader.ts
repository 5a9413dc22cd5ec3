import type { Position } from '../protocol/messages.js';

/** Streams asked for in one query. */
const CHUNK = 500;

interface Waiter {
  resolve(head: Position | undefined): void;
  reject(error: unknown): void;
}

/** Reads heads of streams from the log, many in one query: what is asked for in one turn goes together. */
export class HeadReader {
  private waiting = new Map<string, Waiter[]>();
  private scheduled = false;

  constructor(private readonly heads: (userIds: readonly string[]) => Promise<ReadonlyMap<string, Position>>) {}

  /** @returns undefined when there is no such stream. */
  read(userId: string): Promise<Position | undefined> {
    return new Promise((resolve, reject) => {
      const waiters = this.waiting.get(userId) ?? [];
      this.waiting.set(userId, [...waiters, { resolve, reject }]);
      if (!this.scheduled) {
        this.scheduled = true;
        setImmediate(() => this.flush());
      }
    });
  }

  /** Reads all of them chunk by chunk, and gives way between chunks. */
  async readMany(userIds: readonly string[], take: (userId: string, head: Position) => void): Promise<void> {
    for (let start = 0; start < userIds.length; start += CHUNK) {
      const chunk = userIds.slice(start, start + CHUNK);
      for (const [userId, head] of await this.heads(chunk)) {
        take(userId, head);
      }
    }
  }

  private flush(): void {
    const waiting = this.waiting;
    this.waiting = new Map();
    this.scheduled = false;
    const userIds = [...waiting.keys()];
    for (let start = 0; start < userIds.length; start += CHUNK) {
      const chunk = userIds.slice(start, start + CHUNK);
      this.heads(chunk).then(
        (heads) => {
          for (const userId of chunk) {
            for (const waiter of waiting.get(userId)!) {
              waiter.resolve(heads.get(userId));
            }
          }
        },
        (error) => {
          for (const userId of chunk) {
            for (const waiter of waiting.get(userId)!) {
              waiter.reject(error);
            }
          }
        },
      );
    }
  }
}
