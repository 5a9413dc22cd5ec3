import type { Knex } from 'knex';
import { preparedQuery } from '../../src/repository/query.js';
import type { Context } from '../scenarios/context.js';
import { type Services, servicesCpu } from './services.js';
import { quantile } from './stats.js';

/** One way of writing: by writer and count. Resolves when it is committed. */
export type Write = (writer: number, count: number) => Promise<unknown>;

export interface Way {
  readonly name: string;
  readonly write: Write;
  readonly writers: number;
  /** Events of one call. */
  readonly events?: number;
}

/** Ways take turns of this length, so that what else the machine does meets all of them. */
const TURN_MS = 400;

class Clocked {
  private readonly latencies: number[] = [];
  private busyMs = 0;
  /** Processor time of the services, in microseconds. */
  private cpu = { redis: 0, postgres: 0 };

  constructor(
    private readonly way: Way,
    private readonly services: Services,
  ) {}

  async turn(ms: number): Promise<void> {
    const { write, writers } = this.way;
    const before = servicesCpu(this.services);
    const start = performance.now();
    await Promise.all(
      Array.from({ length: writers }, async (_, writer) => {
        for (let count = 0; performance.now() - start < ms; count += 1) {
          const from = performance.now();
          await write(writer, count);
          this.latencies.push(performance.now() - from);
        }
      }),
    );
    this.busyMs += performance.now() - start;
    const after = servicesCpu(this.services);
    this.cpu.redis += after.redis - before.redis;
    this.cpu.postgres += after.postgres - before.postgres;
  }

  forget(): void {
    this.latencies.length = 0;
    this.busyMs = 0;
    this.cpu = { redis: 0, postgres: 0 };
  }

  get figures(): Record<string, number> {
    const { name, events = 1 } = this.way;
    const sorted = Float64Array.from(this.latencies).sort();
    return {
      [`${name}_per_s`]: (sorted.length * events * 1_000) / this.busyMs,
      [`${name}_mean_ms`]: sorted.reduce((sum, ms) => sum + ms, 0) / sorted.length,
      [`${name}_p50_ms`]: quantile(sorted, 0.5),
      [`${name}_p99_ms`]: quantile(sorted, 0.99),
      [`${name}_redis_cpu_us`]: this.cpu.redis / (sorted.length * events),
      [`${name}_postgres_cpu_us`]: this.cpu.postgres / (sorted.length * events),
    };
  }
}

/** Has ways take turns and gives the figures of each. */
export async function sideBySide(context: Context, ways: readonly Way[]): Promise<Record<string, number>> {
  const clocked = ways.map((way) => new Clocked(way, context.services));
  const turns = context.size(8, 1);
  for (const clock of clocked) {
    await clock.turn(context.size(TURN_MS, 50));
    clock.forget();
  }
  for (let turn = 0; turn < turns; turn += 1) {
    for (const clock of clocked) {
      await clock.turn(context.size(TURN_MS, 50));
    }
  }
  return Object.assign({}, ...clocked.map(({ figures }) => figures)) as Record<string, number>;
}

export const statusOf = (count: number): string => (count % 2 === 0 ? 'processing' : 'completed');

/** The barest statement that the driver of the repository can send. */
export function bareUpdate(db: Knex, taskId: number, count: number): Promise<unknown> {
  return preparedQuery(
    db,
    'UPDATE tasks SET task_number = ?::bigint, task_status = ?::text WHERE task_id = ? RETURNING task_id',
    [count, statusOf(count), taskId],
  );
}

/** The same database, where nobody hears of what is written: otherwise a bare statement is one that is captured. */
export function unheard(databaseUrl: string): string {
  const url = new URL(databaseUrl);
  url.searchParams.set('options', '-c taskwire.capture=off');
  return url.href;
}
