import cluster from 'node:cluster';
import { createLogger, type Logger } from '../base/logger.js';
import { outliveReaders } from '../base/standard-streams.js';
import { ConfigError, EXIT_CONFIG, givenVariables, loadConfig, postgresWarnings } from '../config.js';
import { warnOfUnknownVariables } from './unknown-variables.js';

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
      for (const warning of postgresWarnings(config)) {
        logger.warn(warning);
      }
    }
    // Each role loads what it needs: that is most of the time and of the processor time of a start.
    if (cluster.isWorker) {
      const { runWorker } = await import('./worker.js');
      await runWorker({ config, logger });
    } else if (config.WORKERS === 1) {
      const { runSingle } = await import('./single.js');
      await runSingle({ config, logger });
    } else {
      const { runPrimary } = await import('./primary.js');
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
