import type { Knex } from 'knex';
import type { TaskRow } from '../protocol/tasks.js';
import { preparedQuery, query } from './query.js';
import { jobIdInput, parseInput, taskIdInput } from './task-input.js';
import { fenced, taskJson } from './task-json.js';

/** Tasks of one page. */
const MAX_PAGE = 1_000;

/** Reads tasks as they are now. All methods reject with a TaskwireError: INVALID_REQUEST, DATABASE_UNAVAILABLE. */
export class TaskReader {
  constructor(protected readonly db: Knex) {}

  /** Owners of those of some jobs that exist, by job id. */
  ownersOfJobs(jobIds: readonly string[]): Promise<Map<string, string>> {
    return this.owners('SELECT job_id::text AS id, user_id FROM jobs WHERE job_id = ANY(?::numeric[])', jobIds);
  }

  /** Owners of those of some tasks that exist, by task id. */
  ownersOfTasks(taskIds: readonly string[]): Promise<Map<string, string>> {
    return this.owners('SELECT task_id::text AS id, user_id FROM tasks WHERE task_id = ANY(?::bigint[])', taskIds);
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
    const { tasks } = await this.getTaskPage(jobId, { after, limit, bytes: Number.MAX_SAFE_INTEGER });
    return tasks;
  }

  /**
   * A page of a job's tasks, in order of their ids.
   * @param page `after`: id of the last task that was seen; `limit`: most tasks, at most 1,000; `bytes`: most bytes of their
   * JSON, of which the first task may have more
   * @returns `next`: what to give as `after` for the next page; null when there is none
   */
  async getTaskPage(
    jobId: string | number | bigint,
    page: { readonly after: number; readonly limit: number; readonly bytes: number },
  ): Promise<{ tasks: TaskRow[]; next: number | null }> {
    const limit = Math.min(page.limit, MAX_PAGE);
    const rows = await query<{ task: TaskRow; total: string }>(
      this.db,
      `SELECT p.task, p.total FROM (
         SELECT r.task_id, r.task, count(*) OVER () AS total, row_number() OVER listed AS number,
           sum(octet_length(r.task::text)) OVER listed AS bytes
         FROM (
           SELECT t.task_id, ${taskJson('t')} AS task FROM (${fenced('t.job_id = ?::numeric AND t.task_id > ?')}) t
           ORDER BY t.task_id LIMIT ?
         ) r
         WINDOW listed AS (ORDER BY r.task_id)
       ) p
       WHERE p.number = 1 OR (p.number <= ? AND p.bytes <= ?)
       ORDER BY p.task_id`,
      [parseInput(jobIdInput, jobId), page.after, limit + 1, limit, page.bytes],
    );
    const tasks = rows.map(({ task }) => task);
    return { tasks, next: tasks.length < Number(rows[0]?.total ?? 0) ? tasks.at(-1)!.task_id : null };
  }

  private async owners(sql: string, ids: readonly string[]): Promise<Map<string, string>> {
    if (ids.length === 0) {
      return new Map();
    }
    const rows = await preparedQuery<{ id: string; user_id: string }>(this.db, sql, [ids]);
    return new Map(rows.map(({ id, user_id }) => [id, user_id]));
  }
}
