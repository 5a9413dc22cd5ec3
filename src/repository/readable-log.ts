import type { Position } from '../protocol/messages.js';
import type { Room } from '../protocol/rooms.js';
import type { DatabasePools } from './database-pools.js';
import { EventLog } from './event-log.js';
import type { ReplayPage, ReplayQuery, ReplayState, Snapshot } from './log.js';

/**
 * The log as a hub reads it, each question over the connections that are for it.
 *
 * With a replica, pages of the log and snapshots are read there. An answer of the replica is used only when it is as new as
 * the head of the stream on the primary. Otherwise, or when the replica does not answer, the primary is asked. So a replica
 * that is behind makes reads slower, but never shows less.
 */
export class ReadableLog {
  private readonly quick: EventLog;
  private readonly primary: EventLog;
  private readonly replica: EventLog | undefined;

  constructor({ lookups, reads, replica }: Pick<DatabasePools, 'lookups' | 'reads' | 'replica'>) {
    this.quick = new EventLog(lookups);
    this.primary = new EventLog(reads);
    this.replica = replica === undefined ? undefined : new EventLog(replica);
  }

  heads(userIds: readonly string[]): Promise<ReadonlyMap<string, Position>> {
    return this.quick.heads(userIds);
  }

  state(userId: string): Promise<ReplayState | undefined> {
    return this.quick.state(userId);
  }

  read(query: ReplayQuery): Promise<ReplayPage> {
    return this.fresh(
      (log) => log.read(query),
      // A page that is not the last one does not change by what came after it.
      ({ seq, epoch, complete }) => ({ userId: query.userId, epoch, seq: complete ? seq : Number.MAX_SAFE_INTEGER }),
    );
  }

  snapshot(room: Room, limit: number, bytes: number, before?: number): Promise<Snapshot | undefined> {
    return this.fresh(
      (log) => log.snapshot(room, limit, bytes, before),
      (snapshot) => snapshot,
    );
  }

  /**
   * @param shown what an answer shows of a stream; undefined when it shows none, as a replica may not know it yet
   */
  private async fresh<Answer>(
    ask: (log: EventLog) => Promise<Answer>,
    shown: (answer: Answer) => (Position & { readonly userId: string }) | undefined,
  ): Promise<Answer> {
    if (this.replica === undefined) {
      return ask(this.primary);
    }
    try {
      const answer = await ask(this.replica);
      const position = shown(answer);
      if (position !== undefined && (await this.isNew(position))) {
        return answer;
      }
    } catch {
      // The replica is away or does not know the stream yet; the primary is asked.
    }
    return ask(this.primary);
  }

  private async isNew({ userId, seq, epoch }: Position & { readonly userId: string }): Promise<boolean> {
    const head = (await this.quick.heads([userId])).get(userId);
    return head === undefined || (head.epoch === epoch && head.seq <= seq);
  }
}
