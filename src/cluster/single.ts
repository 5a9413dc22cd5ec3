import type { Logger } from '../base/logger.js';
import { tryPort, urlOf } from '../base/port.js';
import { channelWithin } from '../base/process-messages.js';
import { Releasers } from '../base/releasers.js';
import type { Config } from '../config.js';
import { createServer, type TaskServer } from '../server.js';
import { openDatabase } from './database.js';
import { DatabaseChanges } from './database-changes.js';
import { welcome } from './demonstration.js';
import { onEndSignals } from './end-signals.js';
import { openBroker } from './open-broker.js';
import { tidyAfterStorms } from './tidy.js';

/**
 * The whole service as one process that listens itself (`WORKERS=1`): no primary, no hand-over. A supervisor has to restart
 * it when it ends or hangs. SIGTERM and SIGINT drain it.
 */
export async function runSingle({ config, logger }: { config: Config; logger: Logger }): Promise<void> {
  const releasers = new Releasers((what, error) => logger.error('not released', { what, error }));
  let server: TaskServer | undefined;
  let draining = false;

  onEndSignals({
    logger,
    drainSeconds: config.DRAIN_SECONDS,
    drain: async () => {
      draining = true;
      await server?.drain(config.DRAIN_SECONDS);
      await releasers.release();
      process.exit(0);
    },
    kill: () => {},
  });
  process.on('SIGHUP', () => logger.warn('SIGHUP replaces workers, and WORKERS=1 has none: restart the instance'));

  const { HOST: host, PORT: port, REST_PORT: restPort } = config;
  await tryPort({ host, port, variable: 'PORT' });
  if (restPort !== undefined) {
    await tryPort({ host, port: restPort, variable: 'REST_PORT' });
  }
  try {
    const database = await openDatabase({ config, logger, releasers });
    const { url: databaseUrl, embedded } = database;
    const broker = await openBroker(config, logger, async () => {
      const { LocalBroker } = await import('../broker/local/local-broker.js');
      const { LocalPrimary } = await import('../broker/local/local-primary.js');
      const channel = channelWithin();
      new LocalPrimary().attach(channel.primary);
      // Socket.IO's own adapter is the one for a single process.
      return new LocalBroker(channel.worker, () => undefined, logger);
    });
    server = createServer({ config: database.config, databaseUrl, broker, logger, listens: true });
    releasers.push('server', server.stop);
    tidyAfterStorms(server.http);
    await server.start();
    const changes = new DatabaseChanges(databaseUrl, logger);
    releasers.push('listening for changes', () => changes.stop());
    changes.add(server);
    if (!draining) {
      logger.info('worker ready', { worker: process.pid });
      await welcome({ databaseUrl, embedded, host, url: urlOf(server.http) });
    }
  } catch (error) {
    await releasers.release();
    throw error;
  }
}
