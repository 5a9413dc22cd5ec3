import cluster from 'node:cluster';
import { once } from 'node:events';
import { chmodSync, rmSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer, type Server } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { setupPrimary as setupClusterAdapter } from '@socket.io/cluster-adapter';
import type { Logger } from '../base/logger.js';
import { primaryLink } from '../broker/local/local-link.js';
import { LocalPrimary } from '../broker/local/local-primary.js';
import type { Config } from '../config.js';
import { type EmbeddedDatabase, startEmbeddedDatabase } from '../embedded/embedded-database.js';
import { tokenSecret } from '../embedded/token-secret.js';
import { embeddedUrlFile } from '../embedded/url-file.js';
import { toTaskwireError } from '../protocol/errors.js';
import { connectDatabase } from '../repository/connect-database.js';
import { migrate } from '../repository/migrate.js';
import { greeting, makeDemonstration } from './demonstration.js';
import { createStickyListener } from './sticky-listener.js';
import { WorkerPool } from './worker-pool.js';

/** Connections that wait to be accepted; the system may allow fewer. */
const BACKLOG = 4_096;
/** How long the database may stay away at the start, in milliseconds. */
const DATABASE_PATIENCE_MS = 60_000;
const DATABASE_RETRY_MS = 500;
/** A terminal and npm both pass a Ctrl-C on: what comes within so long of the first is the same one, in milliseconds. */
const SAME_SIGNAL_MS = 1_000;
/** What a worker may need to end beside DRAIN_SECONDS, in milliseconds. */
const END_MS = 15_000;

/**
 * The process that holds the port, the embedded services and the workers.
 * SIGTERM and SIGINT end it in order, SIGHUP replaces the workers one by one.
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
  let embedded: EmbeddedDatabase | undefined;
  let secrets = config.TOKEN_SECRET;
  let ending: Promise<void> | undefined;
  let endingSince = Number.NEGATIVE_INFINITY;
  const local = config.REDIS_URL === undefined ? new LocalPrimary() : undefined;
  const urlFile = embeddedUrlFile(config.DATA_DIR);

  cluster.setupPrimary({ exec, args: [], execArgv: workerOptions(process.execArgv), serialization: 'advanced' });
  if (local !== undefined) {
    setupClusterAdapter();
  }
  const pool = new WorkerPool({
    size: config.WORKERS,
    logger,
    drainMs: config.DRAIN_SECONDS * 1_000 + END_MS,
    fork: () => {
      const worker = cluster.fork({
        DATABASE_URL: embedded?.url ?? config.DATABASE_URL,
        TOKEN_SECRET: secrets.join(','),
        // Its default hangs on whether the database is embedded, which a worker does not see.
        STATS_ACCESS: config.STATS_ACCESS,
      });
      local?.attach(primaryLink(worker));
      return worker;
    },
    onGiveUp: (code) => void finish(code),
  });
  const listener = createStickyListener(() => pool.readyCount > 0);

  async function finish(code: number): Promise<void> {
    listener.close();
    await embedded?.stop();
    if (embedded !== undefined) {
      rmSync(urlFile, { force: true });
    }
    process.exit(code);
  }

  function end(signal: string): void {
    if (performance.now() - endingSince < SAME_SIGNAL_MS) {
      return;
    }
    if (ending !== undefined) {
      logger.warn('ending at once', { signal });
      pool.kill();
      process.exit(1);
    }
    endingSince = performance.now();
    logger.info('ending', { signal, drain_seconds: config.DRAIN_SECONDS });
    listener.close();
    ending = pool.drain().then(() => finish(0));
  }
  process.on('SIGTERM', end);
  process.on('SIGINT', end);
  process.on('SIGHUP', () => void pool.roll());

  await listen(listener, config, 'PORT');
  if (config.REST_PORT !== undefined) {
    await tryRestPort(config);
  }
  if (config.DATABASE_URL === undefined) {
    embedded = await startEmbeddedDatabase({ dir: config.DATA_DIR, logger });
    writeFileSync(urlFile, embedded.url, { mode: 0o600 });
    chmodSync(urlFile, 0o600);
    if (secrets.length === 0) {
      secrets = [tokenSecret(config.DATA_DIR)];
    }
  }
  const databaseUrl = embedded?.url ?? config.DATABASE_URL!;
  await prepareDatabase(databaseUrl, logger);
  await pool.start();
  if (ending === undefined) {
    await welcome(databaseUrl, embedded !== undefined, addressOf(listener));
  }
}

/**
 * Options of Node.js for the workers: those of this process, and two for their memory. A small young generation suits what
 * a worker does: of what an event leaves behind nothing lives on, and a storm of connections would make it, and keep it,
 * tens of megabytes. What the storm leaves in the old one is collected when it is over (`tidyAfterStorms`).
 */
function workerOptions(own: readonly string[]): string[] {
  const chosen = own.some((option) => option.startsWith('--max-semi-space-size'));
  return [...own, ...(chosen ? [] : ['--max-semi-space-size=4']), '--expose-gc'];
}

async function listen(listener: Server, config: Config, variable: 'PORT' | 'REST_PORT'): Promise<void> {
  const { HOST: host, [variable]: port } = config;
  listener.listen({ host, port, backlog: BACKLOG });
  try {
    await once(listener, 'listening');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    const reason =
      code === 'EADDRINUSE'
        ? 'is in use'
        : code === 'EACCES'
          ? 'may not be used by this user'
          : `cannot be used (${code})`;
    throw new Error(`${host}:${port} ${reason}; choose another address with HOST and ${variable}`);
  }
}

/** The workers share this port; that it is taken is better known before they and the database have started. */
async function tryRestPort(config: Config): Promise<void> {
  const probe = createServer();
  await listen(probe, config, 'REST_PORT');
  probe.close();
  await once(probe, 'close');
}

/** Brings the schema up to date; a database that is only just starting gets its time. */
async function prepareDatabase(url: string, logger: Logger): Promise<void> {
  const db = connectDatabase({ url, pool: 1, applicationName: 'taskwire migrate', statementMs: 600_000 });
  const end = performance.now() + DATABASE_PATIENCE_MS;
  try {
    for (let told = false; ; told = true) {
      try {
        const steps = await migrate(db);
        if (steps.length > 0) {
          logger.info('schema brought up to date', { steps });
        }
        return;
      } catch (error) {
        if (toTaskwireError(error).code !== 'DATABASE_UNAVAILABLE' || performance.now() > end) {
          throw error;
        }
        if (!told) {
          logger.warn('waiting for the database', { error });
        }
        await sleep(DATABASE_RETRY_MS);
      }
    }
  } finally {
    await db.destroy();
  }
}

async function welcome(databaseUrl: string, embedded: boolean, url: string): Promise<void> {
  const demonstration = embedded ? await makeDemonstration(databaseUrl) : undefined;
  process.stdout.write(
    demonstration === undefined
      ? `taskwire listens on ${url}\nA key: npx taskwire keys create --owner ID\n`
      : greeting(url, demonstration),
  );
}

/** Where somebody on this machine reaches the listener. */
function addressOf(listener: Server): string {
  const { address, port, family } = listener.address() as AddressInfo;
  const host = address === '0.0.0.0' || address === '::' ? '127.0.0.1' : family === 'IPv6' ? `[${address}]` : address;
  return `http://${host}:${port}`;
}
