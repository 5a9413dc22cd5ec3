import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { eventually } from '../../test/support/eventually.js';
import { startPostgres } from '../../test/support/postgres.js';
import { findProgram, freePort } from '../../test/support/programs.js';

/** Redis and Postgres of the bench's own. */
export interface Services {
  readonly redis: { readonly url: string; readonly pid: number };
  readonly postgres: { readonly pid: number; createDatabase(): Promise<string> };
  stop(): Promise<void>;
}

/** The programs that the bench cannot do without. */
export const PROGRAMS: readonly string[] = ['redis-server', 'initdb', 'postgres'];

/**
 * Starts both on the cores of this process.
 * @param fsync whether Postgres waits for the disk at each commit
 */
export async function startServices(fsync: boolean): Promise<Services> {
  const redis = await startRedis();
  const durable = fsync ? 'on' : 'off';
  // Large enough for the bench's databases, as a service of its own would have it.
  const postgres = await startPostgres({
    fsync: durable,
    full_page_writes: durable,
    shared_buffers: '512MB',
    max_wal_size: '4GB',
  });
  return {
    redis,
    postgres: { pid: postgres.pid!, createDatabase: () => postgres.createDatabase() },
    stop: async () => {
      await Promise.all([redis.stop(), postgres.stop()]);
    },
  };
}

async function startRedis(): Promise<Services['redis'] & { stop(): Promise<void> }> {
  const port = await freePort();
  const dir = mkdtempSync(join(tmpdir(), 'taskwire-bench-redis-'));
  const settings = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', dir];
  const child = spawn(findProgram('redis-server')!, settings, { stdio: 'ignore' });
  const end = (): void => {
    child.kill('SIGKILL');
    rmSync(dir, { recursive: true, force: true });
  };
  process.once('exit', end);
  await eventually(() => knock(port), { timeoutMs: 10_000 });
  return {
    url: `redis://127.0.0.1:${port}`,
    pid: child.pid!,
    stop: async () => {
      process.off('exit', end);
      const exited = once(child, 'exit');
      end();
      await exited;
    },
  };
}

/** Resolves when somebody listens on a port of this host. */
export function knock(port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => {
      socket.destroy();
      resolve();
    });
    socket.once('error', reject);
  });
}
