import type { Knex } from 'knex';
import { TaskwireError } from '../protocol/errors.js';
import { query } from './query.js';
import { type JobInput, jobIdInput, jobInput, parseInput } from './task-input.js';
import { isoText } from './task-json.js';
import { ensureUser } from './users.js';

export interface JobRow {
  readonly job_id: string;
  readonly user_id: string;
  readonly created_at: string;
}

const COLUMNS = `job_id::text AS job_id, user_id, ${isoText('created_at')} AS created_at`;

/** Jobs: what tasks belong to, and who owns them. An owner never changes. */
export class JobRepository {
  constructor(private readonly db: Knex) {}

  /**
   * Creates a job, and its owner's stream with the owner's first one.
   * @throws TaskwireError INVALID_REQUEST, ALREADY_EXISTS, DATABASE_UNAVAILABLE
   */
  async create(input: JobInput): Promise<JobRow> {
    const { job_id, user_id } = parseInput(jobInput, input);
    await ensureUser(this.db, user_id);
    const [row] = await query<JobRow>(
      this.db,
      `INSERT INTO jobs (job_id, user_id) VALUES (?::numeric, ?) ON CONFLICT DO NOTHING RETURNING ${COLUMNS}`,
      [job_id, user_id],
    );
    if (row === undefined) {
      throw new TaskwireError('ALREADY_EXISTS', { message: 'A job with this id exists already' });
    }
    return row;
  }

  /** @returns undefined when there is no such job. */
  async get(jobId: string | number | bigint): Promise<JobRow | undefined> {
    const [row] = await query<JobRow>(this.db, `SELECT ${COLUMNS} FROM jobs WHERE job_id = ?::numeric`, [
      parseInput(jobIdInput, jobId),
    ]);
    return row;
  }
}
