import type { z } from 'zod';
import { type Database, preparedQuery } from '../database/query.js';
import { TaskwireError } from '../protocol/errors.js';
import { insertTasks, updateTasks } from './batch-statements.js';
import { type BatchOutcome, type Keyed, mismatch, notFound, writeBatch } from './batch-writes.js';
import type { AttestationInput, CreateTaskInput, ExecutionInput } from './inputs.js';
import { observedUpdate } from './observed-update.js';
import { createTaskInput, invalidFields, parseInput, taskIdInput } from './task-input.js';
import { type Patch, patchOf, type TaskUpdate } from './task-patch.js';
import { TaskReader } from './task-reader.js';
import { type EventPublisher, type TaskWrite, WriteRunner, type Written } from './write-runner.js';
import { deleteTask, insertTask, type Manner, type Statement, updateTask } from './write-statements.js';

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

export interface TaskRepositoryOptions {
  /** Statuses that may be written; any word of 1 to 32 letters, digits, `-` or `_` when absent. */
  readonly statuses?: readonly string[];
  /**
   * `off`: writes make no events at all, as for a bulk load. Subscribers and the log do not learn of them: rows that they
   * merge events into are wrong until they take a snapshot, and old values of later events are unknown to them.
   */
  readonly capture?: 'on' | 'off';
}

/** A write, and whether it was made before under its key. */
interface Made {
  readonly write: TaskWrite;
  readonly isAgain: boolean;
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
 * exist (nothing is changed then), WRITE_REFUSED where a trigger of the operator kept the write out, DATABASE_UNAVAILABLE.
 */
export class TaskRepository extends TaskReader {
  private readonly runner: WriteRunner;

  constructor(
    db: Database,
    private readonly publisher?: EventPublisher,
    private readonly options: TaskRepositoryOptions = {},
  ) {
    super(db);
    this.runner = new WriteRunner(db, publisher, options.capture ?? 'on');
  }

  /** The same repository within a transaction that the caller commits or rolls back. */
  within(transaction: Database): TaskRepository {
    return new TaskRepository(transaction, this.publisher, this.options);
  }

  /** Creates a task of an existing job. Emits TASK_CREATED. */
  async createTaskData(input: CreateTaskInput, options?: WriteOptions): Promise<TaskWrite> {
    const values = parseInput(createTaskInput, input);
    return this.create(
      values,
      this.manner(options, () => createFingerprint(values)),
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
   * @returns with the fee that the task has got
   */
  async updateTaskFee(
    taskId: number,
    fee: number,
    options?: WriteOptions,
  ): Promise<TaskWrite & { readonly fee: number | null }> {
    const { write, value } = await this.updateValue({ kind: 'fee', task_id: taskId, fee }, 'task_opx_cost', options);
    return { ...write, fee: value as number | null };
  }

  /**
   * Sets a task's status, and its number and submission hash where they are given. Emits TASK_STATUS_CHANGED with the
   * status that it replaced.
   * @returns with the status that the task has got
   */
  async updateTaskNumberAndStatus(
    taskId: number,
    taskNumber: number | null | undefined,
    status: string,
    txHash?: string | null,
    options?: WriteOptions,
  ): Promise<TaskWrite & { readonly task_status: string }> {
    const { write, value } = await this.updateValue(
      {
        kind: 'status',
        task_id: taskId,
        task_number: taskNumber,
        task_status: status,
        task_submission_tx_hash: txHash,
      },
      'task_status',
      options,
    );
    return { ...write, task_status: value as string };
  }

  /** Deletes a task. Emits TASK_DELETED, which is ours: clients ignore types that they do not know. */
  async deleteTaskData(taskId: number, options?: WriteOptions): Promise<TaskWrite> {
    const id = parseInput(taskIdInput, taskId, 'task_id');
    const manner = this.manner(options, () => ['delete', id]);
    return (await this.made(await this.runner.write(deleteTask(id, manner)), manner, 'task', id)).write;
  }

  /**
   * Creates tasks of one owner's jobs in one statement and one commit, with one event each, in the order of the items. (Where a
   * trigger of the operator has a hand in what rows become, it is a statement and a commit of each item, here and below.)
   * An item that is wrong, or whose job is not the owner's (NOT_FOUND), does not keep the others from being written.
   * @param inputs at most 500
   * @returns an outcome per item, in their order
   * @throws TaskwireError INVALID_REQUEST when there are too many items
   */
  createManyTaskData(owner: string, inputs: ReadonlyArray<Keyed<CreateTaskInput>>): Promise<BatchOutcome[]> {
    return writeBatch(this.runner, inputs, {
      check: (input) => parseInput(createTaskInput, input as CreateTaskInput),
      fingerprint: createFingerprint,
      statementOf: (items, keys) => insertTasks(owner, items, this.runner.announcement, keys),
      write: 'insert',
      writeAlone: (item, key) => this.create(item, { announcement: this.runner.announcement, key }, owner),
      isOf: (item, row) => item.job_id === row.job_id,
      missing: 'job',
    });
  }

  /**
   * Makes updates of one owner's tasks as `createManyTaskData` does creations: one statement, one commit, also where
   * several updates are of one task. Each has its own event, in their order.
   */
  updateManyTaskData(owner: string, updates: ReadonlyArray<Keyed<TaskUpdate>>): Promise<BatchOutcome[]> {
    return writeBatch(this.runner, updates, {
      check: (update) => this.patchOf(update as TaskUpdate),
      fingerprint: updateFingerprint,
      statementOf: (patches, keys) => updateTasks(owner, patches, this.runner.announcement, keys),
      write: 'update',
      writeAlone: async (patch, key) => {
        const manner = { announcement: this.runner.announcement, key };
        const written = await this.runner.write(observedUpdate(patch, manner, owner));
        return (await this.made(written, manner, 'task', patch.taskId, owner)).write;
      },
      isOf: (patch, row) => patch.taskId === Number(row.task_id),
      missing: 'task',
    });
  }

  private async create(values: z.output<typeof createTaskInput>, manner: Manner, owner?: string): Promise<TaskWrite> {
    const written = await this.runner.write(insertTask(values, manner, owner));
    return (await this.made(written, manner, 'job', values.job_id, owner)).write;
  }

  private async update(update: TaskUpdate, options: WriteOptions | undefined): Promise<TaskWrite> {
    return (await this.updateRow(this.patchOf(update), options)).write;
  }

  /** An update that is answered with the value that a column has got. */
  private async updateValue(
    update: TaskUpdate,
    column: string,
    options: WriteOptions | undefined,
  ): Promise<{ readonly write: TaskWrite; readonly value: unknown }> {
    const patch = this.patchOf(update);
    const { write, observed, isAgain } = await this.updateRow(patch, options);
    const changes = isAgain ? await this.changesAt(write) : observed;
    const said = changes === undefined ? undefined : JSON.parse(changes)[column];
    return { write, value: said === undefined ? patch.fields[column] : said };
  }

  /** @returns `observed`: what the last event says, where that may be something else than what was asked for */
  private async updateRow(patch: Patch, options: WriteOptions | undefined): Promise<Made & { observed?: string }> {
    const manner = this.manner(options, () => updateFingerprint(patch));
    const plain = (): Statement => updateTask(patch, manner);
    const unobserved = await (manner.onlyAgain
      ? this.runner.write(plain())
      : this.runner.writeUnobserved('update', plain));
    const written = unobserved ?? (await this.runner.write(observedUpdate(patch, manner)));
    const made = await this.made(written, manner, 'task', patch.taskId);
    const observed = unobserved === undefined ? written.rows.at(-1)?.changes : null;
    return { ...made, ...(typeof observed === 'string' ? { observed } : {}) };
  }

  /** What the event of a write says; undefined when it is not in the log any more. */
  private async changesAt({ user_id, seq }: TaskWrite): Promise<string | undefined> {
    const sql = 'SELECT changes::text AS changes FROM task_events WHERE user_id = ? AND seq = ?';
    const [event] = await preparedQuery<{ changes: string }>(this.db, sql, [user_id, seq]);
    return event?.changes;
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

  private manner(options: WriteOptions | undefined, write: () => unknown): Manner {
    const { announcement } = this.runner;
    const key = this.runner.keyOf(options?.idempotencyKey, write);
    return { announcement, key, onlyAgain: options?.onlyAgain };
  }

  /**
   * The write of a statement that makes one.
   * @throws TaskwireError
   */
  private async made(
    { rows: [row], writes: [write] }: Written,
    { key, onlyAgain }: Manner,
    missing: 'job' | 'task',
    id: string | number,
    owner?: string,
  ): Promise<Made> {
    if (row === undefined || write === undefined) {
      const owners = missing === 'job' ? this.ownersOfJobs([String(id)]) : this.ownersOfTasks([String(id)]);
      const found = onlyAgain ? undefined : (await owners).get(String(id));
      throw found === undefined || (owner ?? found) !== found ? notFound(missing) : new TaskwireError('WRITE_REFUSED');
    }
    const isAgain = typeof row.fingerprint === 'string';
    if (isAgain && row.fingerprint !== key?.fingerprint) {
      throw mismatch();
    }
    return { write, isAgain };
  }
}

const createFingerprint = (input: z.output<typeof createTaskInput>): unknown => [
  'create',
  input.job_id,
  input.task_definition_id,
  input.is_imua,
];

const updateFingerprint = ({ type, taskId, fields }: Patch): unknown => [type, taskId, Object.entries(fields).sort()];
