import type { EventEnvelope } from '../../src/protocol/events.js';

export type Row = Record<string, unknown>;

/** A task of which nothing is known but that it was made. */
export const BLANK_TASK = {
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
} satisfies Row;

/**
 * A row after an event.
 * @param row undefined: nothing is known of it but that it was made
 * @param changes those of the event
 */
export function changed(row: Row | undefined, changes: Row): Row {
  const { old_fee, new_fee, old_status, new_status, ...fields } = changes;
  const merged: Row = { ...(row ?? BLANK_TASK), ...fields };
  return { ...merged, is_accepted: merged['is_successful'] };
}

/**
 * Brings rows up to date with events, as docs/rest.md says: an event counts for a row that shows a lower position.
 * @param rows by task id, each with the position `seq` that it shows
 */
export function merge(rows: Map<number, Row>, events: readonly EventEnvelope[]): void {
  for (const { type, seq, data } of events) {
    const row = rows.get(data.task_id);
    if (row !== undefined && Number(row['seq']) >= seq) {
      continue;
    }
    if (String(type) === 'TASK_DELETED') {
      rows.delete(data.task_id);
      continue;
    }
    rows.set(data.task_id, { ...changed(row, data.changes as unknown as Row), seq });
  }
}
