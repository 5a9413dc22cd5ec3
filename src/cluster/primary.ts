import cluster from 'node:cluster';
import { setupPrimary as setupClusterAdapter } from '@socket.io/cluster-adapter';
import type { Logger } from '../base/logger.js';
import { tryPort, urlAt, urlOf } from '../base/port.js';
import { channelToWorker } from '../base/process-messages.js';
import { Releasers } from '../base/releasers.js';
import { LocalPrimary } from '../broker/local/local-primary.js';
import { redisSettings } from '../broker/redis/redis-settings.js';
import { type Config, portsOf } from '../config.js';
import { type OpenDatabase, openDatabase } from './database.js';
import { DatabaseChanges } from './database-changes.js';
import { welcome } from './demonstration.js';
import { onEndSignals } from './end-signals.js';
import { PublicPort } from './public-port.js';
import { createStickyListener } from './sticky-listener.js';
import { WorkerPool } from './worker-pool.js';

/** Time that a worker gets to exit beside DRAIN_SECONDS, in milliseconds. */
const EXIT_MS = 15_000;

/**
 * The process that holds the port, unless each worker has its own (LISTEN=workers), the embedded services and the workers.
 * SIGTERM and SIGINT drain it, SIGHUP replaces the workers one by one.
 * @param exec the program that workers run
 */
export async function runPrimary({
  config,
  logger,
  exec,
}: {
  config: Config;
  logger: Logger;
  exec: string;
}): Promise<void> {
  const releasers = new Releasers((what, error) => logger.error('not released', { what, error }));
  const local = redisSettings(config) === undefined ? new LocalPrimary() : undefined;
  const front = config.LISTEN === 'primary' ? openFront(config, logger, exitAtOnce) : undefined;
  let database: OpenDatabase | undefined;
  let changes: DatabaseChanges | undefined;

  // Workers accept connections of REST_PORT, and of ports of their own, themselves. By Node.js' default the primary would
  // accept and pass them on, and one on its way to a worker that hangs would stay open for ever.
  // Node.js looks at this in setupPrimary.
  cluster.schedulingPolicy = cluster.SCHED_NONE;
  cluster.setupPrimary({ exec, args: [], execArgv: workerOptions(process.execArgv), serialization: 'advanced' });
  if (local !== undefined) {
    setupClusterAdapter();
  }
  const pool = new WorkerPool({
    size: config.WORKERS,
    logger,
    drainMs: config.DRAIN_SECONDS * 1_000 + EXIT_MS,
    fork: (slot) => {
      const { DATABASE_URL, HOST, TOKEN_SECRET, STATS_ACCESS } = database?.config ?? config;
      const worker = cluster.fork({
        DATABASE_URL,
        TOKEN_SECRET: TOKEN_SECRET.join(','),
        // Their defaults depend on whether the database is embedded, which a worker does not know.
        HOST,
        STATS_ACCESS,
        ...(front === undefined ? { PORT: config.PORT + slot, WORKERS: 1 } : {}),
      });
      const channel = channelToWorker(worker);
      local?.attach(channel);
      changes?.addWorker(channel);
      return worker;
    },
    handOverTo: front && ((worker) => front.listener.handOverTo(worker)),
    watch: !process.execArgv.some((option) => option.startsWith('--inspect')),
    onServing: (serving) => front?.port.set(serving),
    onGiveUp: (code) => void exit(code),
  });

  function exitAtOnce(): void {
    pool.kill();
    void exit(1);
  }

  async function exit(code: number): Promise<void> {
    front?.port.set(false);
    await releasers.release();
    process.exit(code);
  }

  async function drain(): Promise<void> {
    // Whoever has come in before the port was closed is served.
    front?.port.set(false);
    await front?.port.settled();
    await pool.drain();
    await exit(0);
  }

  let draining = false;
  onEndSignals({
    logger,
    drainSeconds: config.DRAIN_SECONDS,
    drain: () => {
      draining = true;
      void drain();
    },
    kill: () => pool.kill(),
  });
  process.on('SIGHUP', () => void pool.roll());

  const ports = portsOf(config);
  for (const port of ports) {
    await tryPort({ host: config.HOST, port, variable: 'PORT' });
  }
  if (config.REST_PORT !== undefined) {
    await tryPort({ host: config.HOST, port: config.REST_PORT, variable: 'REST_PORT' });
  }
  try {
    database = await openDatabase({ config, logger, releasers });
    changes = new DatabaseChanges(database.url, logger);
    releasers.push('listening for changes', () => changes?.stop());
    await pool.start();
    await front?.port.settled();
    if (!draining) {
      const url = front?.url() ?? urlAt(config.HOST, config.PORT);
      await welcome({ databaseUrl: database.url, embedded: database.embedded, host: config.HOST, url });
    }
  } catch (error) {
    await releasers.release();
    throw error;
  }
}

/** The public port, and the way from there to the workers. */
function openFront({ HOST: host, PORT: port }: Config, logger: Logger, onFailure: () => void) {
  const listener = createStickyListener();
  return {
    listener,
    port: new PublicPort(listener.server, { host, port, variable: 'PORT' }, logger, (error) => {
      logger.error('the port cannot be opened', { error });
      onFailure();
    }),
    url: () => urlOf(listener.server),
  };
}

/**
 * Options of Node.js for the workers: those of this process, and a small young generation. Objects of an event are short-lived,
 * so a small one is enough, while a storm of connections would let it grow to tens of megabytes and stay so. What a storm
 * leaves in the old generation is collected when it is over (`tidyAfterStorms`).
 */
function workerOptions(own: readonly string[]): string[] {
  const chosen = own.some((option) => option.startsWith('--max-semi-space-size'));
  return chosen ? [...own] : [...own, '--max-semi-space-size=4'];
}
