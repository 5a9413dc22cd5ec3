import { POSTGRES_PROGRAMS, startPostgres } from '../../test/support/postgres.js';
import { REDIS_PROGRAMS, startRedis } from '../../test/support/redis.js';
import { goFirst } from './machine.js';
import { cpuMicros } from './proc.js';

/** Redis and Postgres of the bench's own. */
export interface Services {
  readonly redis: { readonly url: string; readonly pid: number };
  readonly postgres: { readonly pid: number; createDatabase(): Promise<string> };
  stop(): Promise<void>;
}

/** Processor time that both have taken so far, in microseconds. */
export const servicesCpu = ({ redis, postgres }: Services): { redis: number; postgres: number } => ({
  redis: cpuMicros(redis.pid),
  postgres: cpuMicros(postgres.pid),
});

/** The programs that the bench cannot do without. */
export const PROGRAMS: readonly string[] = [...REDIS_PROGRAMS, ...POSTGRES_PROGRAMS];

/**
 * Starts both on the cores of this process.
 * @param fsync whether Postgres waits for the disk at each commit
 */
export async function startServices(fsync: boolean): Promise<Services> {
  const redis = await startRedis();
  goFirst(redis.pid!);
  const durable = fsync ? 'on' : 'off';
  // Large enough for the bench's databases, as a service of its own would have it.
  const postgres = await startPostgres({
    fsync: durable,
    full_page_writes: durable,
    shared_buffers: '512MB',
    max_wal_size: '4GB',
  });
  return {
    redis: { url: redis.url, pid: redis.pid! },
    postgres: { pid: postgres.pid!, createDatabase: () => postgres.createDatabase() },
    stop: async () => {
      await Promise.all([redis.stop(), postgres.stop()]);
    },
  };
}
