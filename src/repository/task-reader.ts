import { type Database, preparedQuery } from '../database/query.js';
import type { Position } from '../protocol/messages.js';
import { jobRoom, parseRoom, type Room } from '../protocol/rooms.js';
import type { TaskRow } from '../protocol/tasks.js';
import { jobIdInput, parseInput, taskIdInput } from './task-input.js';
import { taskJson } from './task-json.js';
import { type PageRow, pageOfRow, pageStatement, type TaskPage } from './task-pages.js';

/** A task as it is at `seq` of its owner's stream: every event up to it is in it, none after it. */
export interface PositionedTask extends Position {
  /** Its owner. */
  readonly userId: string;
  /** JSON text of the `TaskRow`. */
  readonly task: string;
}

/** Tasks of one page. */
const MAX_PAGE = 1_000;

/** Reads tasks as they are now. All methods reject with a TaskwireError: INVALID_REQUEST, DATABASE_UNAVAILABLE. */
export class TaskReader {
  constructor(protected readonly db: Database) {}

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
    const found = await this.getPositionedTask(taskId);
    return found === undefined ? undefined : (JSON.parse(found.task) as TaskRow);
  }

  /** A task with the position that it shows; undefined when there is no such task. */
  async getPositionedTask(taskId: number): Promise<PositionedTask | undefined> {
    const id = parseInput(taskIdInput, taskId);
    const [row] = await preparedQuery<{ task: string; user_id: string; seq: string; epoch: string }>(
      this.db,
      `SELECT ${taskJson('t')}::text AS task, t.user_id, s.seq, s.epoch
       FROM tasks t, LATERAL (SELECT seq, epoch FROM event_streams WHERE user_id = t.user_id OFFSET 0) s
       WHERE t.task_id = ?`,
      [id],
    );
    return row === undefined
      ? undefined
      : { task: row.task, userId: row.user_id, seq: Number(row.seq), epoch: row.epoch };
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
    const room = parseRoom(jobRoom(parseInput(jobIdInput, jobId)));
    const found = await this.getTaskPage(room, { after, limit, bytes: Number.MAX_SAFE_INTEGER });
    return found === undefined ? [] : (JSON.parse(found.tasks) as TaskRow[]);
  }

  /**
   * A page of a room's tasks, in order of their ids, with the position that it shows. What it costs depends on what it
   * returns, however many tasks the room has.
   * @param page `after`: id of the last task that was seen; `limit`: most tasks, at most 1,000; `bytes`: most bytes of their
   * JSON, of which the first task may have more
   * @returns undefined when the room does not exist
   */
  async getTaskPage(
    room: Room,
    page: { readonly after: number; readonly limit: number; readonly bytes: number },
  ): Promise<TaskPage | undefined> {
    const limit = Math.min(page.limit, MAX_PAGE);
    const { sql, bindings } = pageStatement(room, { ...page, order: 'oldest', limit });
    const [row] = await preparedQuery<PageRow>(this.db, sql, bindings);
    return row === undefined ? undefined : pageOfRow(row);
  }

  private async owners(sql: string, ids: readonly string[]): Promise<Map<string, string>> {
    if (ids.length === 0) {
      return new Map();
    }
    const rows = await preparedQuery<{ id: string; user_id: string }>(this.db, sql, [ids]);
    return new Map(rows.map(({ id, user_id }) => [id, user_id]));
  }
}
