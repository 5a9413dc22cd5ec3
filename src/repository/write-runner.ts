import { isConflict } from '../database/database-errors.js';
import { type Database, isTransaction, preparedQuery, query } from '../database/query.js';
import { changesText, type EventType, type TaskEvent } from '../protocol/events.js';
import { areRowsChanged, type Write } from './foreign-triggers.js';
import { invalidFields } from './task-input.js';
import { isKeyTaken, type WriteKey, writeKeyOf } from './write-keys.js';
import type { Announcement, Statement, WriteRow } from './write-statements.js';

/**
 * Gets the events of a write after its commit. Must return at once and must not throw: the write has happened, and what
 * is not published is found in the log.
 */
export interface EventPublisher {
  publish(events: readonly TaskEvent[]): void;
}

/** What a write did. */
export interface TaskWrite {
  readonly task_id: number;
  readonly job_id: string;
  readonly user_id: string;
  /** Position of the write's event in the owner's stream; absent when capture is off. */
  readonly seq?: number;
  readonly epoch?: string;
}

/** How often a write is tried that Postgres undoes because of a deadlock with others. */
export const CONFLICT_ATTEMPTS = 5;

/** For how long writes are observed from the start once one had to be, in milliseconds. */
const OBSERVE_MS = 10_000;

/** What a statement returned, and for each row what was written. */
export interface Written {
  readonly rows: WriteRow[];
  readonly writes: TaskWrite[];
}

/** Runs the statements of writes, and hands their events to the publisher once they are committed. */
export class WriteRunner {
  readonly announcement: Announcement;
  /** Whether writes join a transaction that somebody else commits. */
  readonly joins: boolean;
  private readonly observeUntil: Record<Write, number> = { insert: 0, update: 0 };

  constructor(
    readonly db: Database,
    private readonly publisher: EventPublisher | undefined,
    capture: 'on' | 'off',
  ) {
    this.joins = isTransaction(db);
    const told = publisher !== undefined && !this.joins ? 'published' : 'unpublished';
    this.announcement = capture === 'off' ? 'silent' : told;
  }

  /**
   * The key of a write that is to be made once.
   * @param key the caller's; undefined: it may be made again
   * @param write gives what is asked for
   * @throws TaskwireError INVALID_REQUEST
   */
  keyOf(key: string | undefined, write: () => unknown): WriteKey | undefined {
    if (key !== undefined && this.announcement === 'silent') {
      throw invalidFields([
        { field: 'idempotency_key', message: 'is kept with an event, and silent writes make none' },
      ]);
    }
    return key === undefined ? undefined : writeKeyOf(key, write());
  }

  async write(statement: Statement): Promise<Written> {
    const rows = await this.run(statement);
    return { rows, writes: this.announce(rows) };
  }

  /**
   * Makes a write by a statement that takes for granted that rows become what is asked for (`rowsAreOurs`).
   * @returns undefined when a trigger has a hand in them: nothing is written, and the write has to be made another way
   */
  async writeUnobserved(kind: Write, statement: () => Statement): Promise<Written | undefined> {
    if (kind === 'update' && this.announcement === 'silent') {
      // It tells nothing, whatever becomes of the row.
      return this.write(statement());
    }
    if (performance.now() < this.observeUntil[kind]) {
      return undefined;
    }
    const written = await this.write(statement());
    if (written.rows.length > 0) {
      return written;
    }
    if (await areRowsChanged(this.db, kind)) {
      this.observeUntil[kind] = performance.now() + OBSERVE_MS;
      return undefined;
    }
    // A trigger that kept the statement from writing may be gone by now.
    return this.write(statement());
  }

  private async run({ sql, bindings }: Statement): Promise<WriteRow[]> {
    if (this.joins) {
      // Changes that the transaction made by other statements came before this write, so they are logged before it.
      await query(this.db, 'SELECT taskwire_tell_changes()', []);
      return preparedQuery<WriteRow>(this.db, sql, bindings);
    }
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await preparedQuery<WriteRow>(this.db, sql, bindings);
      } catch (error) {
        // Postgres has undone the whole statement, and the other transaction has gone on.
        if (!(isConflict(error) || isKeyTaken(error)) || attempt === CONFLICT_ATTEMPTS) {
          throw error;
        }
      }
    }
  }

  /** Publishes what was committed. */
  private announce(rows: readonly WriteRow[]): TaskWrite[] {
    const events: TaskEvent[] = [];
    const writes = rows.map(({ task_id, job_id, user_id, changes, stamp }): TaskWrite => {
      const write = { task_id: Number(task_id), job_id, user_id };
      if (stamp === null) {
        return write;
      }
      const [type, seq, epoch, timestamp] = stamp.split(' ') as [EventType, string, string, string];
      const place = { seq: Number(seq), epoch };
      const ids = { userId: user_id, jobId: job_id, taskId: write.task_id };
      // A write that was made before has nothing to publish.
      if (changes !== null) {
        events.push({ type, ...ids, ...place, changes: changesText(ids, changes), timestamp });
      }
      return { ...write, ...place };
    });
    if (events.length > 0 && this.announcement === 'published') {
      this.publisher?.publish(events);
    }
    return writes;
  }
}
