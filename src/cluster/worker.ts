import { setImmediate } from 'node:timers/promises';
import { createAdapter } from '@socket.io/cluster-adapter';
import type { Logger } from '../base/logger.js';
import type { Broker } from '../broker/broker.js';
import { LocalBroker } from '../broker/local/local-broker.js';
import { processLink } from '../broker/local/local-link.js';
import { RedisBroker } from '../broker/redis/redis-broker.js';
import type { Config } from '../config.js';
import { createServer } from '../server.js';
import { serveHandedOver } from './handed-over.js';
import {
  type DatabaseChanged,
  type DatabaseListening,
  isMessage,
  type WorkerDrain,
  type WorkerReady,
} from './messages.js';
import { SessionReport } from './session-report.js';
import { tidyAfterStorms } from './tidy.js';

/** A worker process: serves the connections that the primary gives it until it is told to end. */
export async function runWorker({ config, logger }: { config: Config; logger: Logger }): Promise<void> {
  const broker: Broker =
    config.REDIS_URL === undefined
      ? new LocalBroker(processLink(), createAdapter, logger)
      : new RedisBroker({ url: config.REDIS_URL, prefix: config.REDIS_PREFIX, logger });
  const report = new SessionReport(tell);
  const server = createServer({
    config,
    databaseUrl: config.DATABASE_URL!,
    broker,
    logger,
    // A plain WebSocket counts for its worker as a session does.
    onOpen: (id) => report.open(id),
    onClose: (id) => report.close(id),
  });
  serveHandedOver(server.http, server.io.engine, report);
  tidyAfterStorms(server.http);

  let draining = false;
  const end = async (): Promise<void> => {
    if (!draining) {
      draining = true;
      // Requests that were handed over before are taken first.
      await setImmediate();
      await server.drain(config.DRAIN_SECONDS);
      await server.stop();
      process.exit(0);
    }
  };
  process.on('message', (message) => {
    if (isMessage<WorkerDrain>(message, 'worker:drain')) {
      void end();
    } else if (isMessage<DatabaseChanged>(message, 'database:changed')) {
      server.look(message.users);
    } else if (isMessage<DatabaseListening>(message, 'database:listening')) {
      server.setListening(message.listening);
    }
  });
  process.on('SIGTERM', () => void end());
  // A terminal sends these to all processes; the primary says what is to be done.
  process.on('SIGINT', () => {});
  process.on('SIGHUP', () => {});
  // Without the primary nobody would end this process any more.
  process.once('disconnect', () => process.exit(1));

  await server.start();
  if (!draining) {
    const ready: WorkerReady = { type: 'worker:ready' };
    tell(ready);
  }
}

function tell(message: object): void {
  if (process.connected) {
    // An error of the channel shows as its end; without a callback it would be thrown.
    process.send?.(message, undefined, undefined, () => {});
  }
}
