import type { TaskEvent, TaskRow } from './protocol.js';

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
  // An event of an older server does not say the whole row: then it is as good as missed.
  const row = type === 'TASK_CREATED' && data.changes.task_status ? {} : rows.get(task_id);
  if (row === undefined) {
    return false;
  }
  const next: Record<string, unknown> = { ...row };
  for (const [field, value] of Object.entries(data.changes)) {
    if (!/^(old|new)_/.test(field)) {
      next[field] = value;
    }
  }
  rows.set(task_id, next as unknown as TaskRow);
  return true;
}
