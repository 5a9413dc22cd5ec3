import { TaskwireError, toTaskwireError } from '../protocol/errors.js';
import { changesText, type EventType, type TaskEvent } from '../protocol/events.js';
import { isConflict } from './database-errors.js';
import type { AttestationInput, CreateTaskInput, ExecutionInput } from './inputs.js';
import { type Database, isTransaction, preparedQuery, query } from './query.js';
import { insertTasks, updateTasks } from './task-batch.js';
import { createTaskInput, parseInput, taskIdInput } from './task-input.js';
import { patchOf, type TaskUpdate } from './task-patch.js';
import { TaskReader } from './task-reader.js';
import { type Announcement, deleteTask, insertTask, type Statement, updateTask, type WriteRow } from './task-writes.js';

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

/** What became of an item of a batch: what was written, or why it was not. */
export type BatchOutcome = TaskWrite | TaskwireError;

/** Items of one batch. */
const MAX_BATCH = 500;
/** How often a write is tried that meets others so that they wait for each other. */
const CONFLICT_ATTEMPTS = 5;

export interface TaskRepositoryOptions {
  /**
   * `off`: writes make no events at all, as for a bulk load. Subscribers and the log do not learn of them: rows that they
   * merge events into are wrong until they take a snapshot, and old values of later events are unknown to them.
   */
  readonly capture?: 'on' | 'off';
}

/**
 * Writes tasks: REST, a scheduler, a job. Each write is one statement and one commit: it changes the task, takes the next
 * place in the owner's stream and logs the event. Once committed, the event is handed to the publisher. Without one, the
 * commit wakes the workers by way of the database, and subscribers are told a little later.
 *
 * On a transaction (of knex, or of another client by a `TransactionClient`) the write joins it. It is seen once the
 * transaction commits, and never if it does not. From the first write on, the transaction holds its streams up: commit
 * soon. It can meet other transactions in a deadlock (40P01); repeat it as a whole then.
 *
 * All methods reject with a TaskwireError: INVALID_REQUEST for a bad argument, NOT_FOUND for a job or task that does not
 * exist (nothing is changed then), DATABASE_UNAVAILABLE.
 */
export class TaskRepository extends TaskReader {
  private readonly announcement: Announcement;
  private readonly joins: boolean;

  constructor(
    db: Database,
    private readonly publisher?: EventPublisher,
    private readonly options: TaskRepositoryOptions = {},
  ) {
    super(db);
    this.joins = isTransaction(db);
    const told = publisher !== undefined && !this.joins ? 'published' : 'unpublished';
    this.announcement = options.capture === 'off' ? 'silent' : told;
  }

  /** The same repository within a transaction that the caller commits or rolls back. */
  within(transaction: Database): TaskRepository {
    return new TaskRepository(transaction, this.publisher, this.options);
  }

  /** Creates a task of an existing job. Emits TASK_CREATED. */
  async createTaskData(input: CreateTaskInput): Promise<TaskWrite> {
    const values = parseInput(createTaskInput, input);
    return this.writeOne(insertTask(values, this.announcement), 'job');
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

  /** Deletes a task. Emits TASK_DELETED, which is ours: clients ignore types that they do not know. */
  async deleteTaskData(taskId: number): Promise<TaskWrite> {
    return this.writeOne(deleteTask(parseInput(taskIdInput, taskId), this.announcement), 'task');
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
      (items) => insertTasks(owner, items, this.announcement),
      (item, row) => item.job_id === row.job_id,
      'job',
    );
  }

  /**
   * Makes updates of one owner's tasks as `createManyTaskData` does creations: one statement, one commit, also where
   * several updates are of one task. Each has its own event, in their order.
   */
  updateManyTaskData(owner: string, updates: readonly TaskUpdate[]): Promise<BatchOutcome[]> {
    return this.batch(
      updates,
      patchOf,
      (patches) => updateTasks(owner, patches, this.announcement),
      (patch, row) => patch.taskId === Number(row.task_id),
      'task',
    );
  }

  private update(update: TaskUpdate): Promise<TaskWrite> {
    return this.writeOne(updateTask(patchOf(update), this.announcement), 'task');
  }

  private async writeOne(statement: Statement, missing: 'job' | 'task'): Promise<TaskWrite> {
    const [write] = this.announce(await this.run(statement));
    if (write === undefined) {
      throw notFound(missing);
    }
    return write;
  }

  /**
   * @param statementOf the statement of some items; it leaves out some and returns the rows of the others in order
   * @param isOf whether a row is that of an item, or of one that is left out or written for the same reason
   */
  private async batch<Input, Item>(
    inputs: readonly Input[],
    check: (input: Input) => Item,
    statementOf: (items: readonly Item[]) => Statement,
    isOf: (item: Item, row: WriteRow) => boolean,
    missing: 'job' | 'task',
  ): Promise<BatchOutcome[]> {
    if (inputs.length > MAX_BATCH) {
      throw new TaskwireError('INVALID_REQUEST', { message: `At most ${MAX_BATCH} items at once` });
    }
    const outcomes: BatchOutcome[] = [];
    const checked: Array<{ index: number; item: Item }> = [];
    for (const [index, input] of inputs.entries()) {
      try {
        checked.push({ index, item: check(input) });
      } catch (error) {
        outcomes[index] = toTaskwireError(error);
      }
    }
    if (checked.length === 0) {
      return outcomes;
    }
    try {
      const rows = await this.run(statementOf(checked.map(({ item }) => item)));
      const writes = this.announce(rows);
      let next = 0;
      for (const { index, item } of checked) {
        const row = rows[next];
        outcomes[index] = row !== undefined && isOf(item, row) ? writes[next++]! : notFound(missing);
      }
    } catch (error) {
      if (this.joins) {
        // Whose transaction it is has to know that it has failed.
        throw error;
      }
      for (const { index } of checked) {
        outcomes[index] = toTaskwireError(error);
      }
    }
    return outcomes;
  }

  private async run({ sql, bindings }: Statement): Promise<WriteRow[]> {
    if (this.joins) {
      // What the transaction has changed by other statements was before this write, and is logged before it.
      await query(this.db, 'SELECT taskwire_tell_changes()', []);
      return preparedQuery<WriteRow>(this.db, sql, bindings);
    }
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await preparedQuery<WriteRow>(this.db, sql, bindings);
      } catch (error) {
        // The statement was undone as a whole, and whoever it met has gone on.
        if (!isConflict(error) || attempt === CONFLICT_ATTEMPTS) {
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
      if (changes === null || stamp === null) {
        return write;
      }
      const [type, seq, epoch, timestamp] = stamp.split(' ') as [EventType, string, string, string];
      const place = { seq: Number(seq), epoch };
      const ids = { userId: user_id, jobId: job_id, taskId: write.task_id };
      events.push({ type, ...ids, ...place, changes: changesText(ids, changes), timestamp });
      return { ...write, ...place };
    });
    if (events.length > 0 && this.announcement === 'published') {
      this.publisher?.publish(events);
    }
    return writes;
  }
}

const notFound = (missing: 'job' | 'task'): TaskwireError =>
  new TaskwireError('NOT_FOUND', { message: `No such ${missing}` });
