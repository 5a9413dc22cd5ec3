import { TaskwireError } from '../protocol/errors.js';
import type { EventType } from '../protocol/events.js';
import type { AttestationInput, ExecutionInput, FeeInput, StatusInput } from './inputs.js';
import {
  attestationInput,
  executionInput,
  feeInput,
  invalidFields,
  parseInput,
  statusInput,
  taskIdInput,
} from './task-input.js';

/** SQL types of the columns that updates set, each under its own name. */
export const COLUMN_TYPES: Readonly<Record<string, string>> = {
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

/** One of the four updates of a task. */
export type TaskUpdate = { readonly task_id: number } & (
  | ({ readonly kind: 'execution' } & ExecutionInput)
  | ({ readonly kind: 'attestation' } & AttestationInput)
  | ({ readonly kind: 'fee' } & FeeInput)
  | ({ readonly kind: 'status' } & StatusInput)
);

/** An update that has been checked. */
export interface Patch {
  readonly taskId: number;
  /** The event that it makes. */
  readonly type: EventType;
  /** What it sets, by column; at least one. */
  readonly fields: Readonly<Record<string, unknown>>;
  /** What its event says of that; what it replaces is added by the statement. */
  readonly said: Readonly<Record<string, unknown>>;
}

/**
 * Checks an update.
 * @throws TaskwireError INVALID_REQUEST, with the fields that are wrong in `details`
 */
export function patchOf({ kind, task_id, ...update }: TaskUpdate): Patch {
  const taskId = parseInput(taskIdInput, task_id, 'task_id');
  const [type, values] = read(kind, update);
  const given = Object.entries(values).filter(([, value]) => value !== undefined);
  if (given.length === 0) {
    throw new TaskwireError('INVALID_REQUEST', { message: 'Nothing to update' });
  }
  const fields: Record<string, unknown> = Object.fromEntries(given);
  return { taskId, type, fields, said: saidOf(type, fields) };
}

function saidOf(type: EventType, fields: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const { is_successful, task_status, task_opx_cost } = fields;
  return {
    ...fields,
    // Readers know it by both names.
    ...(is_successful === undefined ? {} : { is_accepted: is_successful }),
    ...(type === 'TASK_STATUS_CHANGED' ? { new_status: task_status } : {}),
    ...(type === 'TASK_FEE_UPDATED' ? { new_fee: task_opx_cost } : {}),
  };
}

function read(kind: TaskUpdate['kind'], update: object): [EventType, object] {
  switch (kind) {
    case 'execution':
      return ['TASK_UPDATED', parseInput(executionInput, update)];
    case 'attestation':
      return ['TASK_UPDATED', parseInput(attestationInput, update)];
    case 'fee':
      return ['TASK_FEE_UPDATED', { task_opx_cost: parseInput(feeInput, update).fee }];
    case 'status': {
      const { task_status, task_number, task_submission_tx_hash } = parseInput(statusInput, update);
      return [
        'TASK_STATUS_CHANGED',
        {
          task_status,
          task_number: task_number ?? undefined,
          task_submission_tx_hash: task_submission_tx_hash ?? undefined,
        },
      ];
    }
    default:
      throw invalidFields([{ field: 'kind', message: 'wants execution, attestation, fee or status' }]);
  }
}
