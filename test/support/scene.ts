import type { Knex } from 'knex';
import { connectDatabase } from '../../src/database/connect-database.js';
import { ApiKeyRepository } from '../../src/repository/api-key-repository.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import type { TaskWrite } from '../../src/repository/write-runner.js';
import type { Job, Writes } from './writers.js';

/** Users with jobs and keys in a database, for tests that look at the system from outside. */
export class Scene {
  readonly jobs: Job[] = [];
  /** Key of each user, by user id. */
  readonly keys = new Map<string, string>();

  private constructor(
    readonly db: Knex,
    readonly serviceKey: string,
  ) {}

  /** @param databaseUrl a migrated database */
  static async make(databaseUrl: string, size: { users: number; jobsPerUser: number }): Promise<Scene> {
    const db = connectDatabase({ url: databaseUrl, pool: 10 });
    const keys = new ApiKeyRepository(db);
    const rateLimit = 10_000_000;
    const service = await keys.create({ owner: 'scheduler', role: 'service', rate_limit: rateLimit });
    const scene = new Scene(db, service.key);
    const jobs = new JobRepository(db);
    for (let user = 1; user <= size.users; user += 1) {
      const userId = `user_${user}`;
      scene.keys.set(userId, (await keys.create({ owner: userId, rate_limit: rateLimit })).key);
      for (let job = 1; job <= size.jobsPerUser; job += 1) {
        const jobId = String(user * 1_000 + job);
        await jobs.create({ job_id: jobId, user_id: userId });
        scene.jobs.push({ jobId, userId });
      }
    }
    return scene;
  }

  close(): Promise<void> {
    return this.db.destroy();
  }
}

export interface Call {
  readonly method: string;
  readonly path: string;
  readonly body: unknown;
}

/** The five writes over REST, each through the next of some instances; only what was answered with 2xx resolves. */
export class RestWrites implements Writes {
  private turn = 0;

  constructor(
    private readonly urls: () => readonly string[],
    protected readonly key: string,
  ) {}

  createTaskData(body: unknown): Promise<TaskWrite> {
    return this.call({ method: 'POST', path: '/api/tasks', body });
  }

  updateTaskExecutionData(id: number, body: unknown): Promise<TaskWrite> {
    return this.call({ method: 'PUT', path: `/api/tasks/execution/${id}`, body });
  }

  updateTaskAttestationData(id: number, body: unknown): Promise<TaskWrite> {
    return this.call({ method: 'PUT', path: `/api/tasks/attestation/${id}`, body });
  }

  updateTaskFee(id: number, fee: number): Promise<TaskWrite & { fee: number }> {
    return this.call({ method: 'PUT', path: `/api/tasks/${id}/fee`, body: { fee } });
  }

  updateTaskNumberAndStatus(
    id: number,
    task_number: number | null | undefined,
    task_status: string,
    task_submission_tx_hash?: string | null,
  ): Promise<TaskWrite & { task_status: string }> {
    return this.call({
      method: 'PUT',
      path: `/api/tasks/${id}/status`,
      body: { task_number, task_status, task_submission_tx_hash },
    });
  }

  protected async call<Answer>({ method, path, body }: Call): Promise<Answer> {
    const response = await fetch(`${this.nextUrl()}${path}`, {
      method,
      headers: { 'x-api-key': this.key, 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
    const answer = (await response.json()) as Answer;
    if (!response.ok) {
      throw new Error(`${method} ${path}: ${response.status} ${JSON.stringify(answer)}`);
    }
    return answer;
  }

  protected nextUrl(): string {
    const urls = this.urls();
    this.turn += 1;
    return urls[this.turn % urls.length]!;
  }
}
