import type { Knex } from 'knex';
import { TaskwireError, toTaskwireError } from '../protocol/errors.js';
import { changesText, type EventType, type TaskEvent } from '../protocol/events.js';
import { preparedQuery } from './query.js';
import { insertTasks, updateTasks } from './task-batch.js';
import {
  type AttestationInput,
  type CreateTaskInput,
  createTaskInput,
  type ExecutionInput,
  parseInput,
} from './task-input.js';
import { patchOf, type TaskUpdate } from './task-patch.js';
import { TaskReader } from './task-reader.js';
import { insertTask, isVanished, type Statement, updateTask, type WriteRow } from './task-writes.js';

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
  /** Position of the write's event in the owner's stream; absent without a publisher. */
  readonly seq?: number;
  readonly epoch?: string;
}

/** What became of an item of a batch: what was written, or why it was not. */
export type BatchOutcome = TaskWrite | TaskwireError;

/** Items of one batch. */
const MAX_BATCH = 500;
/** A task that goes away during a batch fails it as a whole; without the task it is tried again. */
const BATCH_ATTEMPTS = 3;

/**
 * Every write to a task goes through here, whoever makes it: REST, a scheduler, a job. Each write is one statement and
 * one commit. With a publisher it also takes the next place in the owner's stream, logs the event and, once committed,
 * hands it to the publisher; without one it writes plainly and emits nothing.
 *
 * All methods reject with a TaskwireError: INVALID_REQUEST for a bad argument, NOT_FOUND for a job or task that does not
 * exist (nothing is changed then), DATABASE_UNAVAILABLE.
 */
export class TaskRepository extends TaskReader {
  constructor(
    db: Knex,
    private readonly publisher?: EventPublisher,
  ) {
    super(db);
  }

  /** Creates a task of an existing job. Emits TASK_CREATED. */
  async createTaskData(input: CreateTaskInput): Promise<TaskWrite> {
    const values = parseInput(createTaskInput, input);
    return this.writeOne(insertTask(values, this.publisher !== undefined), 'job');
  }

  /** Records an execution: sets the fields that are given. Emits TASK_UPDATED. */
  async updateTaskExecutionData(taskId: number, input: ExecutionInput): Promise<TaskWrite> {
    return this.update({ ...input, kind: 'execution', task_id: taskId });
  }

  /** Records an attestation: sets the fields that are given. Emits TASK_UPDATED. */
  async updateTaskAttestationData(taskId: number, input: AttestationInput): Promise<TaskWrite> {
    return this.update({ ...input, kind: 'attestation', task_id: taskId });
  }

  /**
   * Sets a task's fee. Emits TASK_FEE_UPDATED with the fee that it replaced.
   * @param fee in the unit that the task's network counts in; finite
   */
  async updateTaskFee(taskId: number, fee: number): Promise<TaskWrite> {
    return this.update({ kind: 'fee', task_id: taskId, fee });
  }

  /**
   * Sets a task's status, and its number and submission hash where they are given. Emits TASK_STATUS_CHANGED with the
   * status that it replaced.
   */
  async updateTaskNumberAndStatus(
    taskId: number,
    taskNumber: number | null | undefined,
    status: string,
    txHash?: string | null,
  ): Promise<TaskWrite> {
    return this.update({
      kind: 'status',
      task_id: taskId,
      task_number: taskNumber,
      task_status: status,
      task_submission_tx_hash: txHash,
    });
  }

  /**
   * Creates tasks of one owner's jobs in one statement and one commit, with one event each, in the order of the items.
   * An item that is wrong, or whose job is not the owner's (NOT_FOUND), does not keep the others from being written.
   * @param inputs at most 500
   * @returns an outcome per item, in their order
   * @throws TaskwireError INVALID_REQUEST when there are too many items
   */
  createManyTaskData(owner: string, inputs: readonly CreateTaskInput[]): Promise<BatchOutcome[]> {
    return this.batch(
      inputs,
      (input) => parseInput(createTaskInput, input),
      () => true,
      (items) => insertTasks(owner, items, this.publisher !== undefined),
      (item, row) => item.job_id === row.job_id,
      'job',
    );
  }

  /**
   * Makes updates of one owner's tasks as `createManyTaskData` does creations. Of several updates of one task each has
   * its own event, in their order; the second one is part of a second statement, and so on.
   */
  updateManyTaskData(owner: string, updates: readonly TaskUpdate[]): Promise<BatchOutcome[]> {
    return this.batch(
      updates,
      patchOf,
      (patch, round) => round.every(({ taskId }) => taskId !== patch.taskId),
      (patches) => updateTasks(owner, patches, this.publisher !== undefined),
      (patch, row) => patch.taskId === Number(row.task_id),
      'task',
    );
  }

  private update(update: TaskUpdate): Promise<TaskWrite> {
    return this.writeOne(updateTask(patchOf(update), this.publisher !== undefined), 'task');
  }

  private async writeOne(statement: Statement, missing: 'job' | 'task'): Promise<TaskWrite> {
    // A task that goes away while its update waits is as good as one that was never there.
    const rows = (await this.run(statement)) ?? [];
    const [write] = this.announce(rows);
    if (write === undefined) {
      throw notFound(missing);
    }
    return write;
  }

  /**
   * @param fits whether an item may be written by the same statement as those of the round
   * @param statementOf the statement of a round; it leaves out items and returns the rows of the others in order
   * @param isOf whether a row is that of an item, or of one that is left out or written for the same reason
   */
  private async batch<Input, Item>(
    inputs: readonly Input[],
    check: (input: Input) => Item,
    fits: (item: Item, round: readonly Item[]) => boolean,
    statementOf: (items: readonly Item[]) => Statement,
    isOf: (item: Item, row: WriteRow) => boolean,
    missing: 'job' | 'task',
  ): Promise<BatchOutcome[]> {
    if (inputs.length > MAX_BATCH) {
      throw new TaskwireError('INVALID_REQUEST', { message: `At most ${MAX_BATCH} items at once` });
    }
    const outcomes: BatchOutcome[] = [];
    let pending: Array<{ index: number; item: Item }> = [];
    for (const [index, input] of inputs.entries()) {
      try {
        pending.push({ index, item: check(input) });
      } catch (error) {
        outcomes[index] = toTaskwireError(error);
      }
    }
    while (pending.length > 0) {
      const round: typeof pending = [];
      const later: typeof pending = [];
      const items: Item[] = [];
      for (const entry of pending) {
        if (fits(entry.item, items)) {
          round.push(entry);
          items.push(entry.item);
        } else {
          later.push(entry);
        }
      }
      const rows = await this.runRound(statementOf(items));
      const writes = rows instanceof TaskwireError ? [] : this.announce(rows);
      let next = 0;
      for (const { index, item } of round) {
        if (rows instanceof TaskwireError) {
          outcomes[index] = rows;
        } else {
          const row = rows[next];
          outcomes[index] = row !== undefined && isOf(item, row) ? writes[next++]! : notFound(missing);
        }
      }
      pending = later;
      if (rows instanceof TaskwireError && rows.code === 'DATABASE_UNAVAILABLE') {
        // The rest would come late, and after what is missing now.
        for (const { index } of pending.splice(0)) {
          outcomes[index] = rows;
        }
      }
    }
    return outcomes;
  }

  private async runRound(statement: Statement): Promise<readonly WriteRow[] | TaskwireError> {
    try {
      for (let attempt = 0; attempt < BATCH_ATTEMPTS; attempt += 1) {
        const rows = await this.run(statement);
        if (rows !== undefined) {
          return rows;
        }
      }
      return new TaskwireError('INTERNAL_ERROR');
    } catch (error) {
      return toTaskwireError(error);
    }
  }

  /** @returns undefined when a task went away meanwhile and the statement has changed nothing */
  private async run({ sql, bindings }: Statement): Promise<WriteRow[] | undefined> {
    try {
      return await preparedQuery<WriteRow>(this.db, sql, bindings);
    } catch (error) {
      if (isVanished(error)) {
        return undefined;
      }
      throw error;
    }
  }

  /** Publishes what was committed. */
  private announce(rows: readonly WriteRow[]): TaskWrite[] {
    const events: TaskEvent[] = [];
    const writes = rows.map(({ task_id, job_id, user_id, changes, stamp }): TaskWrite => {
      const write = { task_id: Number(task_id), job_id, user_id };
      if (changes === null || stamp === null) {
        return write;
      }
      const [type, seq, epoch, timestamp] = stamp.split(' ') as [EventType, string, string, string];
      const place = { seq: Number(seq), epoch };
      const ids = { userId: user_id, jobId: job_id, taskId: write.task_id };
      events.push({ type, ...ids, ...place, changes: changesText(ids, changes), timestamp });
      return { ...write, ...place };
    });
    if (events.length > 0) {
      this.publisher?.publish(events);
    }
    return writes;
  }
}

const notFound = (missing: 'job' | 'task'): TaskwireError =>
  new TaskwireError('NOT_FOUND', { message: `No such ${missing}` });
