import { setTimeout as sleep } from 'node:timers/promises';
import type { Knex } from 'knex';
import type { TaskRepository } from '../../../../dist/src/repository/task-repository.js';
import { RestWrites, type Scene } from '../../../../dist/test/support/scene.js';
import { isMissing, Writer } from '../../../../dist/test/support/writers.js';

/** Tasks of a job: with more, some are deleted. */
const MAX_TASKS = 120;
/** Rows that one batch writes. */
const BATCH = 5;
const PAUSE_AFTER_FAILURE_MS = 50;

export interface LoadPorts {
  readonly url: () => string;
  readonly scene: Scene;
  /** As a program beside the service has it. */
  readonly repository: TaskRepository;
  readonly random: () => number;
  /** Rows that are written in a second, by all kinds together. */
  readonly rate: number;
}

/** Writes of every kind at once, at a rate: REST, the repository, batches of both, SQL of a stranger. */
export class Load {
  /** Rows written, by kind. */
  readonly written: Record<string, number> = {};
  /** Calls that failed: something was away. */
  failed = 0;
  private goes = false;
  private readonly inFlight = new Set<Promise<unknown>>();
  private loops: Array<Promise<void>> = [];
  private ended = false;
  private fee = 0;

  constructor(private readonly ports: LoadPorts) {}

  get total(): number {
    return Object.values(this.written).reduce((sum, count) => sum + count, 0);
  }

  start(): void {
    const { scene, repository, random, rate, url } = this.ports;
    const rest = new Writer(new RestWrites(() => [url()], scene.serviceKey), scene.jobs, random);
    const own = new Writer(repository, scene.jobs, random);
    const kinds: Record<string, () => Promise<number>> = {
      REST: async () => {
        await rest.write();
        return 1;
      },
      repository: async () => {
        await own.write();
        return 1;
      },
      'batches over REST': () => this.restBatch(),
      'batches of the repository': () => this.ownBatch(),
      SQL: () => this.sql(),
    };
    const share = rate / Object.keys(kinds).length;
    this.goes = true;
    this.loops = Object.entries(kinds).map(async ([kind, write]) => {
      let due = performance.now();
      while (!this.ended) {
        const wait = due - performance.now();
        if (wait > 0 || !this.goes) {
          await sleep(Math.max(wait, 5));
          continue;
        }
        const work = write();
        this.inFlight.add(work);
        try {
          const rows = await work;
          this.written[kind] = (this.written[kind] ?? 0) + rows;
          // Who was held up does not catch up by a flood.
          due = Math.max(due, performance.now() - 1_000) + (rows * 1_000) / share;
        } catch (error) {
          if (!isMissing(error)) {
            this.failed += 1;
            due = performance.now() + PAUSE_AFTER_FAILURE_MS;
          }
        } finally {
          this.inFlight.delete(work);
        }
      }
    });
  }

  /** Resolves when so many rows more have been written. */
  async more(rows: number): Promise<void> {
    const goal = this.total + rows;
    while (this.total < goal && !this.ended) {
      await sleep(20);
    }
  }

  /** Stops, and resolves when nothing is under way. */
  async pause(): Promise<void> {
    this.goes = false;
    await Promise.allSettled([...this.inFlight]);
  }

  resume(): void {
    this.goes = true;
  }

  async stop(): Promise<void> {
    this.ended = true;
    await Promise.all(this.loops);
  }

  private get db(): Knex {
    return this.ports.scene.db;
  }

  private pick<Item>(items: readonly Item[]): Item {
    return items[Math.floor(this.ports.random() * items.length)]!;
  }

  /** Some tasks of a job, but for its first one, in order. */
  private async some(jobId: string, count: number): Promise<number[]> {
    const { rows } = await this.db.raw<{ rows: Array<{ task_id: string }> }>(
      `SELECT task_id FROM tasks WHERE job_id = ? AND task_id > (SELECT min(task_id) FROM tasks WHERE job_id = ?)
       ORDER BY random() LIMIT ?`,
      [jobId, jobId, count],
    );
    return rows.map(({ task_id }) => Number(task_id)).sort((a, b) => a - b);
  }

  private async call(method: string, path: string, body?: unknown): Promise<unknown> {
    const response = await fetch(`${this.ports.url()}${path}`, {
      method,
      headers: { 'x-api-key': this.ports.scene.serviceKey, 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    if (!response.ok) {
      throw new Error(`${method} ${path}: ${response.status} ${text}`);
    }
    return text === '' ? undefined : JSON.parse(text);
  }

  private updatesOf(ids: readonly number[]) {
    return ids.map((task_id, index) => {
      this.fee += 1;
      return index % 2 === 0
        ? { kind: 'fee' as const, task_id, fee: this.fee / 8 }
        : { kind: 'status' as const, task_id, task_status: this.pick(['queued', 'processing', 'failed']) };
    });
  }

  private async restBatch(): Promise<number> {
    const { jobId } = this.pick(this.ports.scene.jobs);
    if (this.ports.random() < 0.2) {
      await this.call(
        'POST',
        '/api/tasks',
        Array.from({ length: BATCH }, (_, n) => ({ job_id: jobId, task_definition_id: n })),
      );
      return BATCH;
    }
    const ids = await this.some(jobId, BATCH);
    if (ids.length > 0) {
      await this.call('PUT', '/api/tasks', this.updatesOf(ids));
    }
    return Math.max(1, ids.length);
  }

  private async ownBatch(): Promise<number> {
    const { jobId, userId } = this.pick(this.ports.scene.jobs);
    const ids = await this.some(jobId, BATCH);
    if (ids.length > 0) {
      await this.ports.repository.updateManyTaskData(userId, this.updatesOf(ids));
    }
    return Math.max(1, ids.length);
  }

  /** What a stranger does: whole statements, transactions with parts taken back, deletions. */
  private async sql(): Promise<number> {
    const { jobId, userId } = this.pick(this.ports.scene.jobs);
    const roll = this.ports.random();
    this.fee += 1;
    const { rows } = await this.db.raw<{ rows: Array<{ count: string }> }>(
      'SELECT count(*) FROM tasks WHERE job_id = ?',
      [jobId],
    );
    if (Number(rows[0]!.count) > MAX_TASKS || roll < 0.1) {
      const ids = await this.some(jobId, Number(rows[0]!.count) > MAX_TASKS ? BATCH : 1);
      const [first, ...others] = ids;
      if (first !== undefined) {
        await this.call('DELETE', `/api/tasks/${first}`);
        await this.db.raw('DELETE FROM tasks WHERE task_id = ANY(?::bigint[])', [others]);
      }
      return Math.max(1, ids.length);
    }
    const ids = await this.some(jobId, 3);
    return this.db.transaction(async (transaction) => {
      await transaction.raw('SELECT 1 FROM tasks WHERE task_id = ANY(?::bigint[]) ORDER BY task_id FOR UPDATE', [ids]);
      await transaction.raw(`UPDATE tasks SET task_status = ?, task_opx_cost = ? WHERE task_id = ANY(?::bigint[])`, [
        this.pick(['sql', 'ran']),
        this.fee / 8,
        ids,
      ]);
      await transaction.raw('SAVEPOINT one');
      await transaction.raw(`UPDATE tasks SET task_status = 'never' WHERE task_id = ANY(?::bigint[])`, [ids]);
      await transaction.raw('ROLLBACK TO SAVEPOINT one');
      if (roll < 0.4) {
        await transaction.raw(
          `INSERT INTO tasks (job_id, user_id, task_definition_id, is_imua, task_status, created_at)
           VALUES (?, ?, 1, false, 'pending', now())`,
          [jobId, userId],
        );
        return ids.length + 1;
      }
      return Math.max(1, ids.length);
    });
  }
}
