import type { DatabasePools } from '../database/database-pools.js';
import type { Position } from '../protocol/messages.js';
import type { Room } from '../protocol/rooms.js';
import { EventLog } from './event-log.js';
import type { ReplayPage, ReplayQuery, ReplayState, Snapshot } from './log.js';
import { Replica } from './replica.js';

/**
 * The log as a hub reads it, each question over the connections that are for it.
 *
 * With a replica, pages of the log and snapshots are read there. An answer of the replica is used only when it is what the
 * primary would have said. Otherwise, or when the replica does not answer, the primary is asked. So a replica that is behind
 * makes reads slower, but never shows anything else.
 */
export class ReadableLog {
  private readonly quick: EventLog;
  private readonly primary: EventLog;
  private readonly replica: Replica | undefined;

  /** @param onReplica told why the replica is not used; with undefined when it is used again */
  constructor(
    { lookups, reads, replica }: Pick<DatabasePools, 'lookups' | 'reads' | 'replica'>,
    onReplica: (reason: string | undefined) => void = () => {},
  ) {
    this.quick = new EventLog(lookups);
    this.primary = new EventLog(reads);
    this.replica = replica === undefined ? undefined : new Replica({ replica, lookups, onChange: onReplica });
  }

  heads(userIds: readonly string[]): Promise<ReadonlyMap<string, Position>> {
    return this.quick.heads(userIds);
  }

  state(userId: string): Promise<ReplayState | undefined> {
    return this.quick.state(userId);
  }

  async read(query: ReplayQuery): Promise<ReplayPage> {
    const { userId } = query;
    const found = await this.replica?.ask(
      (log) => log.read(query),
      ({ witness, ...page }) => witness && { ...page, userId, witness },
    );
    return found ?? this.primary.read(query);
  }

  async snapshot(room: Room, limit: number, bytes: number, before?: number): Promise<Snapshot | undefined> {
    const found = await this.replica?.ask(
      (log) => log.snapshot(room, limit, bytes, before),
      (snapshot) => snapshot?.witness && { ...snapshot, complete: true, witness: snapshot.witness },
    );
    return found ?? this.primary.snapshot(room, limit, bytes, before);
  }
}
