import type { z } from 'zod';
import { TaskwireError, toTaskwireError } from '../protocol/errors.js';
import { changesText, type EventType, type TaskEvent } from '../protocol/events.js';
import { isConflict } from './database-errors.js';
import type { AttestationInput, CreateTaskInput, ExecutionInput } from './inputs.js';
import { type Database, isTransaction, preparedQuery, query } from './query.js';
import { type ItemKeys, insertTasks, updateTasks } from './task-batch.js';
import { createTaskInput, invalidFields, parseInput, taskIdInput } from './task-input.js';
import { type Patch, patchOf, type TaskUpdate } from './task-patch.js';
import { TaskReader } from './task-reader.js';
import {
  type Announcement,
  deleteTask,
  insertTask,
  type Manner,
  type Statement,
  updateTask,
  type WriteRow,
} from './task-writes.js';
import { isKeyTaken, type KeptWrite, keptWrites, type WriteKey, writeKeyOf } from './write-keys.js';

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

export interface WriteOptions {
  /**
   * Makes the write once: asked for again with the same key, within 24 hours and by whatever process, it answers what
   * the first one answered. Another write with the same key is refused with IDEMPOTENCY_MISMATCH. 1 to 1,024 characters;
   * all programs that write here share the keys.
   */
  readonly idempotencyKey?: string | undefined;
  /** Answers a write that was made before under the key, and makes none: without one it rejects with NOT_FOUND. */
  readonly onlyAgain?: boolean | undefined;
}

/** An item of a batch, which may have a key of its own (`WriteOptions.idempotencyKey`). */
export type Keyed<Item> = Item & { readonly idempotency_key?: string | undefined };

interface BatchEntry<Item> {
  readonly index: number;
  readonly item: Item;
  readonly key: WriteKey | undefined;
}

interface BatchPorts<Item> {
  /** @throws TaskwireError INVALID_REQUEST */
  readonly check: (input: object) => Item;
  readonly fingerprint: (item: Item) => unknown;
  /** The statement of some items; it leaves out some and returns the rows of the others in order. */
  readonly statementOf: (items: readonly Item[], keys: ItemKeys) => Statement;
  /** Whether a row is that of an item, or of one that is left out or written for the same reason. */
  readonly isOf: (item: Item, row: WriteRow) => boolean;
  readonly missing: 'job' | 'task';
}

export interface TaskRepositoryOptions {
  /** Statuses that may be written; without it all short words. */
  readonly statuses?: readonly string[];
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
  async createTaskData(input: CreateTaskInput, options?: WriteOptions): Promise<TaskWrite> {
    const values = parseInput(createTaskInput, input);
    return this.writeOne(
      (manner) => insertTask(values, manner),
      this.manner(options, createFingerprint(values)),
      'job',
    );
  }

  /** Records an execution: sets the fields that are given. Emits TASK_UPDATED. */
  async updateTaskExecutionData(taskId: number, input: ExecutionInput, options?: WriteOptions): Promise<TaskWrite> {
    return this.update({ ...input, kind: 'execution', task_id: taskId }, options);
  }

  /** Records an attestation: sets the fields that are given. Emits TASK_UPDATED. */
  async updateTaskAttestationData(taskId: number, input: AttestationInput, options?: WriteOptions): Promise<TaskWrite> {
    return this.update({ ...input, kind: 'attestation', task_id: taskId }, options);
  }

  /**
   * Sets a task's fee. Emits TASK_FEE_UPDATED with the fee that it replaced.
   * @param fee in the unit that the task's network counts in; finite, not negative
   */
  async updateTaskFee(taskId: number, fee: number, options?: WriteOptions): Promise<TaskWrite> {
    return this.update({ kind: 'fee', task_id: taskId, fee }, options);
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
    options?: WriteOptions,
  ): Promise<TaskWrite> {
    return this.update(
      {
        kind: 'status',
        task_id: taskId,
        task_number: taskNumber,
        task_status: status,
        task_submission_tx_hash: txHash,
      },
      options,
    );
  }

  /** Deletes a task. Emits TASK_DELETED, which is ours: clients ignore types that they do not know. */
  async deleteTaskData(taskId: number, options?: WriteOptions): Promise<TaskWrite> {
    const id = parseInput(taskIdInput, taskId, 'task_id');
    return this.writeOne((manner) => deleteTask(id, manner), this.manner(options, ['delete', id]), 'task');
  }

  /**
   * Creates tasks of one owner's jobs in one statement and one commit, with one event each, in the order of the items.
   * An item that is wrong, or whose job is not the owner's (NOT_FOUND), does not keep the others from being written.
   * @param inputs at most 500
   * @returns an outcome per item, in their order
   * @throws TaskwireError INVALID_REQUEST when there are too many items
   */
  createManyTaskData(owner: string, inputs: ReadonlyArray<Keyed<CreateTaskInput>>): Promise<BatchOutcome[]> {
    return this.batch(inputs, {
      check: (input) => parseInput(createTaskInput, input as CreateTaskInput),
      fingerprint: createFingerprint,
      statementOf: (items, keys) => insertTasks(owner, items, this.announcement, keys),
      isOf: (item, row) => item.job_id === row.job_id,
      missing: 'job',
    });
  }

  /**
   * Makes updates of one owner's tasks as `createManyTaskData` does creations: one statement, one commit, also where
   * several updates are of one task. Each has its own event, in their order.
   */
  updateManyTaskData(owner: string, updates: ReadonlyArray<Keyed<TaskUpdate>>): Promise<BatchOutcome[]> {
    return this.batch(updates, {
      check: (update) => this.patchOf(update as TaskUpdate),
      fingerprint: updateFingerprint,
      statementOf: (patches, keys) => updateTasks(owner, patches, this.announcement, keys),
      isOf: (patch, row) => patch.taskId === Number(row.task_id),
      missing: 'task',
    });
  }

  private update(update: TaskUpdate, options: WriteOptions | undefined): Promise<TaskWrite> {
    const patch = this.patchOf(update);
    const manner = this.manner(options, updateFingerprint(patch));
    return this.writeOne((how) => updateTask(patch, how), manner, 'task');
  }

  private patchOf(update: TaskUpdate): Patch {
    const patch = patchOf(update);
    const { statuses = [] } = this.options;
    const status = patch.fields['task_status'];
    if (statuses.length > 0 && status !== undefined && !statuses.includes(status as string)) {
      throw invalidFields([{ field: 'task_status', message: `wants one of ${statuses.join(', ')}` }]);
    }
    return patch;
  }

  private manner(options: WriteOptions | undefined, write: unknown): Manner {
    const { announcement } = this;
    const key = this.keyOf(options?.idempotencyKey, write);
    return { announcement, key, onlyAgain: options?.onlyAgain };
  }

  private keyOf(key: string | undefined, write: unknown): WriteKey | undefined {
    if (key !== undefined && this.announcement === 'silent') {
      throw invalidFields([
        { field: 'idempotency_key', message: 'is kept with an event, and silent writes make none' },
      ]);
    }
    return key === undefined ? undefined : writeKeyOf(key, write);
  }

  private async writeOne(
    statementOf: (manner: Manner) => Statement,
    manner: Manner,
    missing: 'job' | 'task',
  ): Promise<TaskWrite> {
    const rows = await this.run(statementOf(manner));
    const [row] = rows;
    if (row === undefined) {
      throw notFound(missing);
    }
    if (typeof row.fingerprint === 'string' && row.fingerprint !== manner.key?.fingerprint) {
      throw new TaskwireError('IDEMPOTENCY_MISMATCH');
    }
    return this.announce(rows)[0]!;
  }

  private async batch<Input extends object, Item>(
    inputs: readonly Input[],
    ports: BatchPorts<Item>,
  ): Promise<BatchOutcome[]> {
    if (inputs.length > MAX_BATCH) {
      throw new TaskwireError('INVALID_REQUEST', { message: `At most ${MAX_BATCH} items at once` });
    }
    const outcomes: BatchOutcome[] = [];
    const checked: Array<BatchEntry<Item>> = [];
    for (const [index, given] of inputs.entries()) {
      try {
        const { idempotency_key, ...input } = given as { idempotency_key?: string };
        const item = ports.check(input);
        checked.push({ index, item, key: this.keyOf(idempotency_key, ports.fingerprint(item)) });
      } catch (error) {
        outcomes[index] = toTaskwireError(error);
      }
    }
    for (let attempt = 1; ; attempt += 1) {
      try {
        await this.writeMany(checked, ports, outcomes);
        return outcomes;
      } catch (error) {
        if (isKeyTaken(error) && !this.joins && attempt < CONFLICT_ATTEMPTS) {
          continue;
        }
        if (this.joins) {
          // Whose transaction it is has to know that it has failed.
          throw error;
        }
        for (const { index } of checked) {
          outcomes[index] = toTaskwireError(error);
        }
        return outcomes;
      }
    }
  }

  private async writeMany<Item>(
    entries: ReadonlyArray<BatchEntry<Item>>,
    { statementOf, isOf, missing }: BatchPorts<Item>,
    outcomes: BatchOutcome[],
  ): Promise<void> {
    const keys = entries.flatMap(({ key }) => (key === undefined ? [] : [key.key]));
    const kept = keys.length === 0 ? new Map<string, KeptWrite>() : await keptWrites(this.db, keys);
    const todo = new Map<string | number, BatchEntry<Item>>();
    const again: Array<{ readonly entry: BatchEntry<Item>; readonly first: BatchEntry<Item> }> = [];
    for (const entry of entries) {
      const { index, key } = entry;
      const made = key && kept.get(key.key);
      const first = key && todo.get(key.key);
      if (made !== undefined) {
        outcomes[index] = made.fingerprint === key?.fingerprint ? writeOf(made) : mismatch();
      } else if (first !== undefined) {
        again.push({ entry, first });
      } else {
        todo.set(key?.key ?? index, entry);
      }
    }
    const writing = [...todo.values()];
    if (writing.length > 0) {
      const rows = await this.run(
        statementOf(
          writing.map(({ item }) => item),
          writing.map(({ key }) => key),
        ),
      );
      const writes = this.announce(rows);
      let next = 0;
      for (const { index, item } of writing) {
        const row = rows[next];
        outcomes[index] = row !== undefined && isOf(item, row) ? writes[next++]! : notFound(missing);
      }
    }
    for (const { entry, first } of again) {
      outcomes[entry.index] = entry.key?.fingerprint === first.key?.fingerprint ? outcomes[first.index]! : mismatch();
    }
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

const notFound = (missing: 'job' | 'task'): TaskwireError =>
  new TaskwireError('NOT_FOUND', { message: `No such ${missing}` });

const mismatch = (): TaskwireError => new TaskwireError('IDEMPOTENCY_MISMATCH');

const writeOf = ({ task_id, job_id, user_id, seq, epoch }: KeptWrite): TaskWrite => ({
  task_id: Number(task_id),
  job_id,
  user_id,
  seq: Number(seq),
  epoch,
});

const createFingerprint = (input: z.output<typeof createTaskInput>): unknown => [
  'create',
  input.job_id,
  input.task_definition_id,
  input.is_imua,
];

const updateFingerprint = ({ type, taskId, fields }: Patch): unknown => [type, taskId, Object.entries(fields).sort()];
