import type { Knex } from 'knex';
import { connectDatabase } from '../../src/database/connect-database.js';
import { ApiKeyRepository } from '../../src/repository/api-key-repository.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import type { Services } from './services.js';

/** How many users, jobs and tasks a scenario has. */
export interface Layout {
  readonly jobs: number;
  /** Owners of the jobs, each of a row of neighbours. */
  readonly users: number;
  readonly tasksPerJob: number;
}

/** A job with its tasks: what a room is made of. */
export interface Job {
  readonly jobId: string;
  readonly userId: string;
  readonly taskIds: number[];
}

/** A database with everything that a scenario writes to, and a key that may see it all. */
export interface World {
  readonly databaseUrl: string;
  readonly key: string;
  readonly jobs: readonly Job[];
}

/** Most tasks that are made by one statement. */
const BATCH = 500;
const SIDE_BY_SIDE = 8;

function jobsOf({ jobs, users, tasksPerJob }: Layout): Job[] {
  return Array.from({ length: jobs }, (_, place) => ({
    jobId: String(place + 1),
    userId: `user_${Math.floor((place * users) / jobs)}`,
    taskIds: Array.from({ length: tasksPerJob }, (_unused, task) => place * tasksPerJob + task + 1),
  }));
}

/** Makes the database of a scenario; nothing of it is an event. */
export async function createWorld(services: Services, layout: Layout): Promise<World> {
  const databaseUrl = await services.postgres.createDatabase();
  const db = connectDatabase({ url: databaseUrl, pool: SIDE_BY_SIDE });
  try {
    const { key } = await new ApiKeyRepository(db).create({
      owner: 'bench',
      role: 'service',
      rate_limit: 2_147_483_647,
    });
    const jobs = jobsOf(layout);
    const jobRepository = new JobRepository(db);
    await inParallel(jobs, ({ jobId, userId }) => jobRepository.create({ job_id: jobId, user_id: userId }));
    await createTasks(db, jobs);
    return { databaseUrl, key, jobs };
  } finally {
    await db.destroy();
  }
}

async function createTasks(db: Knex, jobs: readonly Job[]): Promise<void> {
  const tasks = new TaskRepository(db, undefined, { capture: 'off' });
  const batches: Array<{ owner: string; jobs: Job[] }> = [];
  for (const job of jobs) {
    const wanted = job.taskIds.splice(0).map(() => job);
    for (let from = 0; from < wanted.length; from += BATCH) {
      const part = wanted.slice(from, from + BATCH);
      const last = batches.at(-1);
      if (last?.owner === job.userId && last.jobs.length + part.length <= BATCH) {
        last.jobs.push(...part);
      } else {
        batches.push({ owner: job.userId, jobs: part });
      }
    }
  }
  await inParallel(batches, async ({ owner, jobs: of }) => {
    const inputs = of.map(({ jobId }) => ({ job_id: jobId, task_definition_id: 1, is_imua: false }));
    const outcomes = await tasks.createManyTaskData(owner, inputs);
    for (const [place, outcome] of outcomes.entries()) {
      if (outcome instanceof Error) {
        throw outcome;
      }
      of[place]!.taskIds.push(outcome.task_id);
    }
  });
}

async function inParallel<Item>(items: readonly Item[], work: (item: Item) => Promise<unknown>): Promise<void> {
  let next = 0;
  await Promise.all(
    Array.from({ length: SIDE_BY_SIDE }, async () => {
      while (next < items.length) {
        const item = items[next]!;
        next += 1;
        await work(item);
      }
    }),
  );
}
