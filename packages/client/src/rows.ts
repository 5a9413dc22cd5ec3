import type { TaskEvent, TaskRow } from './protocol.js';

/** What a new task has where its event says nothing. */
const UNSAID = {
  task_number: null,
  task_status: 'pending',
  task_error: null,
  task_opx_cost: null,
  execution_timestamp: null,
  execution_tx_hash: null,
  proof_of_task: null,
  task_performer_id: null,
  task_attester_ids: null,
  tp_signature: null,
  ta_signature: null,
  task_submission_tx_hash: null,
  is_successful: null,
  is_accepted: null,
  tx_url: null,
  converted_arguments: null,
};

/** Tasks by their id. */
export type Rows = Map<number, TaskRow>;

export const rowsOf = (tasks: readonly TaskRow[]): Rows => new Map(tasks.map((task) => [task.task_id, task]));

/**
 * Applies an event; a row that it changes is a new object.
 * @returns whether the rows knew the task, or need not
 */
export function applyTo(rows: Rows, { type, data }: TaskEvent): boolean {
  const { task_id } = data;
  if (type === 'TASK_DELETED') {
    return rows.delete(task_id);
  }
  const row = type === 'TASK_CREATED' ? UNSAID : rows.get(task_id);
  if (row === undefined) {
    return false;
  }
  const next: Record<string, unknown> = { ...row };
  for (const [field, value] of Object.entries(data.changes)) {
    if (!/^(old|new)_/.test(field)) {
      next[field] = value;
    }
  }
  if ('is_successful' in data.changes) {
    next['is_accepted'] = data.changes.is_successful;
  }
  rows.set(task_id, next as unknown as TaskRow);
  return true;
}
