import type { Knex } from 'knex';
import type { z } from 'zod';
import { TaskwireError } from '../protocol/errors.js';
import type { EventType, TaskEvent } from '../protocol/events.js';
import type { TaskRow } from '../protocol/tasks.js';
import { preparedQuery, query } from './query.js';
import {
  type AttestationInput,
  attestationInput,
  type CreateTaskInput,
  createTaskInput,
  type ExecutionInput,
  executionInput,
  feeInput,
  jobIdInput,
  parseInput,
  statusInput,
  taskIdInput,
} from './task-input.js';
import { taskJson } from './task-json.js';
import {
  type Assignment,
  type Changes,
  insertTask,
  type Statement,
  updateTask,
  VANISHED,
  type WriteRow,
} from './task-writes.js';

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

/** Tasks of one page. */
const MAX_PAGE = 1_000;

/** SQL types of the columns that updates set under their own names. */
const COLUMN_TYPES: Readonly<Record<string, string>> = {
  task_number: 'bigint',
  task_status: 'text',
  task_error: 'text',
  task_opx_cost: 'double precision',
  execution_timestamp: 'timestamptz',
  execution_tx_hash: 'text',
  proof_of_task: 'text',
  task_performer_id: 'bigint',
  task_attester_ids: 'jsonb',
  tp_signature: 'text',
  ta_signature: 'text',
  task_submission_tx_hash: 'text',
  is_successful: 'boolean',
  tx_url: 'text',
  converted_arguments: 'jsonb',
};

/**
 * Every write to a task goes through here, whoever makes it: REST, a scheduler, a job. Each write is one statement and
 * one commit. With a publisher it also takes the next place in the owner's stream, logs the event and, once committed,
 * hands it to the publisher; without one it writes plainly and emits nothing.
 *
 * All methods reject with a TaskwireError: INVALID_REQUEST for a bad argument, NOT_FOUND for a job or task that does not
 * exist (nothing is changed then), DATABASE_UNAVAILABLE.
 */
export class TaskRepository {
  constructor(
    private readonly db: Knex,
    private readonly publisher?: EventPublisher,
  ) {}

  /** Creates a task of an existing job. Emits TASK_CREATED. */
  async createTaskData(input: CreateTaskInput): Promise<TaskWrite> {
    const values = parseInput(createTaskInput, input);
    return this.write('TASK_CREATED', insertTask(values, this.publisher !== undefined), 'job');
  }

  /** Records an execution: sets the fields that are given. Emits TASK_UPDATED. */
  async updateTaskExecutionData(taskId: number, input: ExecutionInput): Promise<TaskWrite> {
    return this.update(taskId, parseInput(executionInput, input));
  }

  /** Records an attestation: sets the fields that are given. Emits TASK_UPDATED. */
  async updateTaskAttestationData(taskId: number, input: AttestationInput): Promise<TaskWrite> {
    return this.update(taskId, parseInput(attestationInput, input));
  }

  /**
   * Sets a task's fee. Emits TASK_FEE_UPDATED with the fee that it replaced.
   * @param fee in the unit that the task's network counts in; finite
   */
  async updateTaskFee(taskId: number, fee: number): Promise<TaskWrite> {
    const values = parseInput(feeInput, { fee });
    return this.set(taskId, 'TASK_FEE_UPDATED', { task_opx_cost: values.fee }, (given) => ({
      sql: `jsonb_build_object('old_fee', task.old_fee, 'new_fee', ?::double precision) || ?::jsonb`,
      bindings: [values.fee, given],
    }));
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
    const { task_number, task_status, task_submission_tx_hash } = parseInput(statusInput, {
      task_number: taskNumber,
      task_status: status,
      task_submission_tx_hash: txHash,
    });
    const fields = {
      task_status,
      ...(task_number == null ? {} : { task_number }),
      ...(task_submission_tx_hash == null ? {} : { task_submission_tx_hash }),
    };
    return this.set(taskId, 'TASK_STATUS_CHANGED', fields, (given) => ({
      sql: `jsonb_build_object('old_status', task.old_status, 'new_status', ?::text) || ?::jsonb`,
      bindings: [task_status, given],
    }));
  }

  /** @returns undefined when there is no such task. */
  async getTask(taskId: number): Promise<TaskRow | undefined> {
    const id = parseInput(taskIdInput, taskId);
    const rows = await preparedQuery<{ task: TaskRow }>(
      this.db,
      `SELECT ${taskJson('t')} AS task FROM tasks t WHERE t.task_id = ?`,
      [id],
    );
    return rows[0]?.task;
  }

  /**
   * Tasks of a job in order of their ids.
   * @param page `after`: id of the last task that was seen; `limit`: most tasks returned, at most 1,000 (the default)
   */
  async getTasksByJob(
    jobId: string | number | bigint,
    page: { readonly after?: number; readonly limit?: number } = {},
  ): Promise<TaskRow[]> {
    const { after = 0, limit = MAX_PAGE } = page;
    const rows = await query<{ task: TaskRow }>(
      this.db,
      `SELECT ${taskJson('t')} AS task FROM tasks t WHERE t.job_id = ?::numeric AND t.task_id > ?
       ORDER BY t.task_id LIMIT ?`,
      [parseInput(jobIdInput, jobId), after, Math.min(limit, MAX_PAGE)],
    );
    return rows.map(({ task }) => task);
  }

  private update(taskId: number, fields: z.output<typeof executionInput> | z.output<typeof attestationInput>) {
    return this.set(taskId, 'TASK_UPDATED', fields, (given) => ({ sql: '?::jsonb', bindings: [given] }));
  }

  /** Sets columns under their own names; `changes` gets the JSON text of what is set. */
  private async set(
    taskId: number,
    type: EventType,
    fields: object,
    changes: (given: string) => Changes,
  ): Promise<TaskWrite> {
    const id = parseInput(taskIdInput, taskId);
    const given = Object.entries(fields).filter(([, value]) => value !== undefined);
    if (given.length === 0) {
      throw new TaskwireError('INVALID_REQUEST', { message: 'Nothing to update' });
    }
    const assignments = given.map(
      ([column, value]): Assignment => ({
        column,
        type: COLUMN_TYPES[column]!,
        value: COLUMN_TYPES[column] === 'jsonb' ? JSON.stringify(value) : value,
      }),
    );
    const text = JSON.stringify(Object.fromEntries(given));
    const event = this.publisher === undefined ? undefined : { type, changes: changes(text) };
    return this.write(type, updateTask(id, assignments, event), 'task');
  }

  private async write(type: EventType, statement: Statement, missing: 'job' | 'task'): Promise<TaskWrite> {
    const [row] = await preparedQuery<WriteRow>(this.db, statement.sql, statement.bindings).catch((error: unknown) => {
      if ((error as { code?: unknown }).code === VANISHED) {
        return [];
      }
      throw error;
    });
    if (row === undefined) {
      throw new TaskwireError('NOT_FOUND', { message: `No such ${missing}` });
    }
    const { job_id, user_id, epoch, changes, timestamp } = row;
    const task_id = Number(row.task_id);
    if (this.publisher === undefined || epoch === null || changes === null || timestamp === null) {
      return { task_id, job_id, user_id };
    }
    const seq = Number(row.seq);
    this.publisher.publish([{ type, userId: user_id, seq, epoch, jobId: job_id, taskId: task_id, changes, timestamp }]);
    return { task_id, job_id, user_id, seq, epoch };
  }
}
