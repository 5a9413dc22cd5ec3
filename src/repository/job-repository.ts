import { hash, randomBytes } from 'node:crypto';
import type { Knex } from 'knex';
import { preparedQuery, query } from '../database/query.js';
import { TaskwireError } from '../protocol/errors.js';
import type { Position } from '../protocol/messages.js';
import type { JobInput } from './inputs.js';
import { jobIdInput, jobInput, parseInput, userIdInput } from './task-input.js';
import { isoText } from './task-json.js';
import { ensureUser } from './users.js';

export interface JobRow {
  readonly job_id: string;
  readonly user_id: string;
  readonly created_at: string;
}

/** Jobs of one page. */
const MAX_PAGE = 1_000;

export interface JobPage {
  /** By rising ids. */
  readonly jobs: readonly JobRow[];
  /** What to give as `after` for the next page; null when there is none. */
  readonly next: string | null;
}

const COLUMNS = `job_id::text AS job_id, user_id, ${isoText('created_at')} AS created_at`;

/** Jobs: what tasks belong to, and who owns them. An owner never changes. */
export class JobRepository {
  constructor(private readonly db: Knex) {}

  /**
   * Creates a job, and its owner's stream with the owner's first one.
   * @param options `again`: a job of the same owner that exists already is returned
   * @throws TaskwireError INVALID_REQUEST, ALREADY_EXISTS, OWNER_MISMATCH when the job is another user's,
   *   DATABASE_UNAVAILABLE
   */
  async create(input: JobInput, { again = false } = {}): Promise<JobRow> {
    const { job_id, user_id } = parseInput(jobInput, input);
    const made = await this.insert(job_id, user_id);
    if (made !== undefined) {
      return made;
    }
    const job = await this.get(job_id);
    if (job !== undefined && job.user_id !== user_id) {
      throw new TaskwireError('OWNER_MISMATCH');
    }
    if (job === undefined || !again) {
      throw new TaskwireError('ALREADY_EXISTS', { message: 'A job with this id exists already' });
    }
    return job;
  }

  /**
   * Creates a job with a random id.
   * @param key idempotency key: one job is made, however often it is asked for with the same key
   * @throws TaskwireError INVALID_REQUEST, DATABASE_UNAVAILABLE
   */
  async createWithNewId(userId: string, key?: string): Promise<JobRow> {
    const owner = parseInput(userIdInput, userId, 'user_id');
    const seed = key === undefined ? randomBytes(32) : hash('sha256', key, 'buffer');
    // Wide enough that two are never equal, and none can be guessed.
    const jobId = BigInt(`0x${seed.toString('hex', 0, 16)}`).toString();
    return (await this.insert(jobId, owner)) ?? (await this.create({ job_id: jobId, user_id: owner }, { again: true }));
  }

  private async insert(jobId: string, userId: string): Promise<JobRow | undefined> {
    await ensureUser(this.db, userId);
    const [row] = await query<JobRow>(
      this.db,
      `INSERT INTO jobs (job_id, user_id) VALUES (?::numeric, ?) ON CONFLICT DO NOTHING RETURNING ${COLUMNS}`,
      [jobId, userId],
    );
    return row;
  }

  /** @returns undefined when there is no such job. */
  async get(jobId: string | number | bigint): Promise<JobRow | undefined> {
    const [row] = await query<JobRow>(this.db, `SELECT ${COLUMNS} FROM jobs WHERE job_id = ?::numeric`, [
      parseInput(jobIdInput, jobId),
    ]);
    return row;
  }

  /** A job, and the head of its owner's stream at that moment; undefined when there is no such job. */
  async getPositionedJob(jobId: string): Promise<{ readonly job: JobRow; readonly position: Position } | undefined> {
    const [row] = await preparedQuery<JobRow & { seq: string; epoch: string }>(
      this.db,
      `SELECT ${COLUMNS}, s.seq, s.epoch
       FROM jobs j, LATERAL (SELECT seq, epoch FROM event_streams WHERE event_streams.user_id = j.user_id OFFSET 0) s
       WHERE job_id = ?::numeric`,
      [parseInput(jobIdInput, jobId)],
    );
    if (row === undefined) {
      return undefined;
    }
    const { seq, epoch, ...job } = row;
    return { job, position: { seq: Number(seq), epoch } };
  }

  /**
   * A user's jobs in order of their ids, and the head of the user's stream at that moment.
   * @param page `after`: id of the last job that was seen; `limit`: most jobs, at most 1,000
   * @returns undefined when there is no such user
   */
  async listOfUser(
    userId: string,
    page: { readonly after?: string | undefined; readonly limit: number },
  ): Promise<(JobPage & { readonly position: Position }) | undefined> {
    const limit = Math.min(page.limit, MAX_PAGE);
    // Rows are compared so that the index by user and job is the only one that serves (see task-pages.ts).
    const rows = await preparedQuery<Partial<JobRow> & { seq: string; epoch: string }>(
      this.db,
      `SELECT s.seq, s.epoch, found.* FROM event_streams s LEFT JOIN LATERAL (
         SELECT ${COLUMNS} FROM jobs j
         WHERE (j.user_id, j.job_id + 0) > (?::text, ?::numeric) AND j.user_id <= ?::text
         ORDER BY j.user_id, j.job_id + 0 LIMIT ?
       ) found ON true
       WHERE s.user_id = ?`,
      [userId, page.after ?? BEFORE_ALL, userId, limit + 1, userId],
    );
    const [first] = rows;
    if (first === undefined) {
      return undefined;
    }
    const jobs = rows.flatMap(({ job_id, user_id, created_at }) =>
      job_id == null ? [] : [{ job_id, user_id, created_at } as JobRow],
    );
    return { ...pageOf(jobs, limit), position: { seq: Number(first.seq), epoch: first.epoch } };
  }

  /** Everybody's jobs in order of their ids; for the rest see `listOfUser`. */
  async list(page: { readonly after?: string | undefined; readonly limit: number }): Promise<JobPage> {
    const limit = Math.min(page.limit, MAX_PAGE);
    const rows = await preparedQuery<JobRow>(
      this.db,
      `SELECT ${COLUMNS} FROM jobs j WHERE j.job_id > ?::numeric ORDER BY j.job_id LIMIT ?`,
      [page.after ?? BEFORE_ALL, limit + 1],
    );
    return pageOf(rows, limit);
  }
}

/** Lower than every job id. */
const BEFORE_ALL = '-1';

function pageOf(found: readonly JobRow[], limit: number): JobPage {
  const jobs = found.slice(0, limit);
  return { jobs, next: found.length > limit ? jobs.at(-1)!.job_id : null };
}
