import { isDeepStrictEqual } from 'node:util';

/*
 * What an event has to say of a change, as docs/protocol.md and docs/operations.md have it: written down here a second time,
 * so that the triggers are held against the documents and not against themselves.
 */

export type Said = Readonly<Record<string, unknown>>;
/** A row as reads show it. */
export type Visible = Readonly<Record<string, unknown>>;

export interface LoggedEvent {
  readonly user_id: string;
  readonly seq: number;
  readonly job_id: string;
  readonly task_id: number;
  readonly type: string;
  readonly changes: Said;
}

const PLAIN = [
  'task_id',
  'job_id',
  'user_id',
  'task_number',
  'task_definition_id',
  'is_imua',
  'task_status',
  'task_error',
  'task_opx_cost',
  'execution_tx_hash',
  'proof_of_task',
  'task_performer_id',
  'task_attester_ids',
  'tp_signature',
  'ta_signature',
  'task_submission_tx_hash',
  'is_successful',
  'tx_url',
  'converted_arguments',
] as const;
const IDS: readonly string[] = ['task_id', 'job_id', 'user_id'];
/** Fields of a change that is one of the status. */
const WITH_STATUS: readonly string[] = ['task_status', 'task_number', 'task_submission_tx_hash'];

/** A time that never comes, or was never, is shown as none. */
const time = (value: unknown): string | null =>
  value === null || /infinity$/.test(String(value)) ? null : new Date(String(value)).toISOString();

/** @param row the row as `to_jsonb` gives it, its times in UTC */
export function visible(row: Said): Visible {
  return {
    ...Object.fromEntries(PLAIN.map((name) => [name, row[name]])),
    execution_timestamp: time(row['execution_timestamp']),
    created_at: time(row['created_at']),
    is_accepted: row['is_successful'],
  };
}

/** Fields in which two rows differ. */
export const differences = (one: Visible, other: Visible): string[] =>
  [...new Set([...Object.keys(one), ...Object.keys(other)])].filter(
    (name) => !isDeepStrictEqual(one[name], other[name]),
  );

/** The events of a change that another program committed, without their numbers. */
export function told(old: Visible | undefined, now: Visible | undefined): LoggedEvent[] {
  if (old !== undefined && now !== undefined && old['job_id'] === now['job_id'] && old['user_id'] === now['user_id']) {
    return changed(old, now);
  }
  return [...(old === undefined ? [] : [deleted(old)]), ...(now === undefined ? [] : [created(now)])];
}

const event = (row: Visible, type: string, changes: Said): LoggedEvent => ({
  user_id: String(row['user_id']),
  seq: 0,
  job_id: String(row['job_id']),
  task_id: Number(row['task_id']),
  type,
  changes,
});

const deleted = (row: Visible): LoggedEvent =>
  event(row, 'TASK_DELETED', { old_status: row['task_status'], old_fee: row['task_opx_cost'] });

const created = (row: Visible): LoggedEvent =>
  event(row, 'TASK_CREATED', Object.fromEntries(Object.entries(row).filter(([name]) => !IDS.includes(name))));

function changed(old: Visible, now: Visible): LoggedEvent[] {
  const names = differences(old, now);
  const fields = Object.fromEntries(names.map((name) => [name, now[name]]));
  if (names.length === 0) {
    return [];
  }
  if (names.every((name) => name === 'task_opx_cost')) {
    const [old_fee, new_fee] = [old, now].map((row) => row['task_opx_cost']);
    return [event(now, 'TASK_FEE_UPDATED', { ...fields, old_fee, new_fee })];
  }
  if (names.includes('task_status') && names.every((name) => WITH_STATUS.includes(name))) {
    const [old_status, new_status] = [old, now].map((row) => row['task_status']);
    return [event(now, 'TASK_STATUS_CHANGED', { ...fields, old_status, new_status })];
  }
  return [event(now, 'TASK_UPDATED', fields)];
}
