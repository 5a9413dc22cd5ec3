import type { TaskRepository } from '../../src/repository/task-repository.js';
import type { TaskWrite } from '../../src/repository/write-runner.js';

/** The writes that a load makes; the repository has them, and so has REST. */
export type Writes = Pick<
  TaskRepository,
  | 'createTaskData'
  | 'updateTaskExecutionData'
  | 'updateTaskAttestationData'
  | 'updateTaskFee'
  | 'updateTaskNumberAndStatus'
>;

export interface Job {
  readonly jobId: string;
  readonly userId: string;
}

/** A small generator of numbers that repeats itself for a seed (mulberry32). */
export function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** Whether a write failed because somebody else deleted the task, over REST or in the repository. */
export const isMissing = (error: unknown): boolean =>
  (error as { code?: unknown }).code === 'NOT_FOUND' || /"NOT_FOUND"/.test(String(error));

/** Writes of all five kinds to tasks of some jobs. */
export class Writer {
  private readonly tasks: number[] = [];
  private count = 0;

  constructor(
    private readonly writes: Writes,
    private readonly jobs: readonly Job[],
    private readonly next: () => number,
  ) {}

  /** Makes one write, of a random kind. */
  async write(): Promise<TaskWrite> {
    this.count += 1;
    const roll = this.next();
    const task = this.tasks[Math.floor(this.next() * this.tasks.length)];
    if (task === undefined || roll < 0.1) {
      const job = this.jobs[Math.floor(this.next() * this.jobs.length)]!;
      const made = await this.writes.createTaskData({
        job_id: job.jobId,
        task_definition_id: this.count,
        is_imua: roll < 0.05,
      });
      this.tasks.push(made.task_id);
      return made;
    }
    try {
      return await this.update(task, roll);
    } catch (error) {
      if (isMissing(error)) {
        this.tasks.splice(this.tasks.indexOf(task), 1);
      }
      throw error;
    }
  }

  private update(task: number, roll: number): Promise<TaskWrite> {
    if (roll < 0.4) {
      return this.writes.updateTaskNumberAndStatus(task, this.count, roll < 0.3 ? 'processing' : 'completed', '0xabc');
    }
    if (roll < 0.7) {
      return this.writes.updateTaskFee(task, Math.round(this.next() * 1e6) / 1e3);
    }
    if (roll < 0.85) {
      return this.writes.updateTaskExecutionData(task, {
        task_performer_id: this.count,
        execution_timestamp: '2024-01-01T00:00:00Z',
        execution_tx_hash: `0x${this.count.toString(16)}`,
      });
    }
    return this.writes.updateTaskAttestationData(task, {
      task_number: this.count,
      task_attester_ids: [1, 2, this.count],
      is_successful: roll > 0.9,
    });
  }
}

/** Runs `writers` side by side until `total` writes have been made. */
export async function writeAll(writers: readonly Writer[], total: number): Promise<TaskWrite[]> {
  const made: TaskWrite[] = [];
  let started = 0;
  await Promise.all(
    writers.map(async (writer) => {
      while (started < total) {
        started += 1;
        made.push(await writer.write());
      }
    }),
  );
  return made;
}
