import cluster from 'node:cluster';
import { createLogger, type Logger } from '../base/logger.js';
import { outliveReaders } from '../base/standard-streams.js';
import { ConfigError, EXIT_CONFIG, givenVariables, loadConfig } from '../config.js';
import { runPrimary } from './primary.js';
import { runSingle } from './single.js';
import { warnOfUnknownVariables } from './unknown-variables.js';
import { runWorker } from './worker.js';

/**
 * Starts this process in its role: the primary, a worker, or the only process (WORKERS=1). The exit code is 78 when the
 * configuration is wrong, and 1 when it cannot start.
 * @param exec the program that workers run, which calls this too
 */
export async function run(exec: string): Promise<void> {
  outliveReaders();
  let logger: Logger | undefined;
  try {
    const config = loadConfig();
    logger = createLogger({ level: config.LOG_LEVEL, format: config.LOG_FORMAT }).child({ pid: process.pid });
    const fail = (error: unknown): void => {
      logger?.error('unexpected failure', { error });
      process.exit(1);
    };
    process.on('uncaughtException', fail);
    process.on('unhandledRejection', fail);
    if (!cluster.isWorker) {
      warnOfUnknownVariables(givenVariables(), logger);
    }
    if (cluster.isWorker) {
      await runWorker({ config, logger });
    } else if (config.WORKERS === 1) {
      await runSingle({ config, logger });
    } else {
      await runPrimary({ config, logger, exec });
    }
  } catch (error) {
    if (error instanceof ConfigError) {
      process.stderr.write(`${error.message}\n`);
      process.exit(EXIT_CONFIG);
    }
    if (logger === undefined) {
      throw error;
    }
    logger.error('cannot start', { error });
    process.exit(1);
  }
}
