import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { eventually } from '../../test/support/eventually.js';
import { freePorts } from '../../test/support/programs.js';
import { pinned } from './machine.js';
import { processTree } from './proc.js';
import type { Variant } from './variants.js';

export interface ServerOptions {
  readonly redisUrl: string;
  readonly databaseUrl: string;
  readonly workers: number;
  /** Cores as taskset takes them; undefined: all. */
  readonly cores: string | undefined;
  readonly environment?: Readonly<Record<string, string>>;
}

/** A server that runs and is ready. */
export interface Server {
  readonly port: number;
  readonly pid: number;
  /** The end of what it has written to its log. */
  readonly log: string;
  /** Empties `log`. */
  forget(): void;
  /** Ends it and all of its processes. */
  stop(): Promise<void>;
}

const START_MS = 30_000;
const KEPT_LOG = 16_000;

export async function startServer(variant: Variant, options: ServerOptions): Promise<Server> {
  // Workers that listen themselves take one each.
  const port = await freePorts(options.workers);
  const [command, args] = pinned(options.cores, [process.execPath, ...variant.nodeOptions, variant.script]);
  const child = spawn(command, args, {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: {
      PATH: process.env['PATH'],
      NODE_ENV: 'production',
      PORT: String(port),
      HOST: '127.0.0.1',
      WORKERS: String(options.workers),
      REDIS_URL: options.redisUrl,
      DATABASE_URL: options.databaseUrl,
      LOG_LEVEL: 'warn',
      MAX_CONNECTIONS_PER_IP: '1000000',
      STATS_ACCESS: 'local',
      ...variant.environment,
      ...options.environment,
    },
  });
  const workers = Number(options.environment?.['WORKERS'] ?? options.workers);
  let log = '';
  let said = '';
  child.stdout.on('data', (bytes: Buffer) => {
    said = `${said}${bytes}`.slice(-KEPT_LOG);
  });
  child.stderr.on('data', (bytes: Buffer) => {
    log = `${log}${bytes}`.slice(-KEPT_LOG);
  });
  let ended = false;
  const exited = once(child, 'exit').then(() => {
    ended = true;
  });
  const pid = child.pid!;
  const killAll = (): void => {
    for (const one of processTree(pid)) {
      kill(one);
    }
  };
  process.once('exit', killAll);
  const stop = async (): Promise<void> => {
    process.off('exit', killAll);
    killAll();
    await exited;
    await forgetWorkers(options.redisUrl);
  };
  try {
    await eventually(
      async () => {
        if (!ended) {
          await (variant.ours ? healthy(port, workers) : saidReady(said));
        }
      },
      { timeoutMs: START_MS, intervalMs: 50 },
    );
    if (ended) {
      throw new Error('it ended');
    }
  } catch (error) {
    await stop();
    throw new Error(`${variant.name} did not start: ${(error as Error).message}\n${said}${log}`);
  }
  // What a start leaves to be done is not to be counted as work.
  await sleep(300);
  return {
    port,
    pid,
    get log() {
      return log;
    },
    forget() {
      log = '';
    },
    stop,
  };
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It is gone.
  }
}

/** The next server would wait for answers of killed workers until their leases end. */
async function forgetWorkers(redisUrl: string): Promise<void> {
  const redis = new Redis(redisUrl, { retryStrategy: () => null });
  // It may have been killed, as in S8, and what it knew with it.
  redis.on('error', () => {});
  await redis.flushall().catch(() => {});
  redis.disconnect();
}

function saidReady(said: string): void {
  if (!said.includes('ready')) {
    throw new Error('not ready');
  }
}

/** Healthy, and all workers are there. */
async function healthy(port: number, workers: number): Promise<void> {
  const health = await fetch(`http://127.0.0.1:${port}/api/ws/health`);
  const { status } = (await health.json()) as { status: string };
  const stats = await fetch(`http://127.0.0.1:${port}/api/ws/stats`);
  const { data } = (await stats.json()) as { data?: { nodes?: number } };
  if (status !== 'healthy' || (data?.nodes ?? 0) < workers) {
    throw new Error(`${status}, ${data?.nodes} of ${workers} workers`);
  }
}
