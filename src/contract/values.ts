import { z } from 'zod';
import { ERRORS, type ErrorBody, type ErrorCode } from '../protocol/errors.js';
import { ID_PATTERNS } from '../protocol/rooms.js';
import type { TaskRow } from '../protocol/tasks.js';
import { schemaOf } from './schemas.js';

/** A time in UTC, with milliseconds. */
export const time = z.string().meta({ format: 'date-time' });
export const jobId = z.string().meta({ pattern: ID_PATTERNS.job });
export const taskId = z.int().positive();
export const userId = z.string().meta({ pattern: ID_PATTERNS.user });
export const count = z.int().nonnegative();
export const epoch = z.string().min(1).max(64);

/** Where somebody stands in a stream: the fields of `Position`. */
export const position = {
  seq: count.meta({ description: "Position in the owner's stream." }),
  epoch: epoch.meta({ description: 'The stream itself; another one after a restore.' }),
};

const text = z.string().nullable();

/** The fields of a task. */
export const taskRow = schemaOf<TaskRow>()(
  z.strictObject({
    task_id: taskId,
    job_id: jobId,
    user_id: userId,
    task_number: count.nullable(),
    task_definition_id: count,
    is_imua: z.boolean(),
    task_status: z.string(),
    task_error: text,
    task_opx_cost: z.number().nullable(),
    execution_timestamp: time.nullable(),
    execution_tx_hash: text,
    proof_of_task: text,
    task_performer_id: count.nullable(),
    task_attester_ids: z.array(count).nullable(),
    tp_signature: text,
    ta_signature: text,
    task_submission_tx_hash: text,
    is_successful: z.boolean().nullable(),
    is_accepted: z.boolean().nullable().meta({ description: '`is_successful`, under the name of snapshots.' }),
    tx_url: text,
    converted_arguments: z.unknown(),
    created_at: time,
  }),
);

const CODES = Object.keys(ERRORS) as [ErrorCode, ...ErrorCode[]];

/** What a client gets of an error. */
export const errorBody = schemaOf<ErrorBody>()(
  z.strictObject({
    code: z.enum(CODES),
    message: z.string(),
    details: z.unknown().optional(),
    retry_after_ms: count.optional(),
  }),
);
