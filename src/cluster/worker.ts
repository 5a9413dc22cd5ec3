import { setImmediate } from 'node:timers/promises';
import type { Logger } from '../base/logger.js';
import { channelToPrimary, type ToPrimary } from '../base/process-messages.js';
import { TurnBatch } from '../base/turn-batch.js';
import type { Config } from '../config.js';
import { createServer } from '../server.js';
import { BEAT_MS } from './heartbeat.js';
import { openBroker } from './open-broker.js';
import { serveHandedOver } from './sticky-corrections.js';
import { tidyAfterStorms } from './tidy.js';

/**
 * A worker process: serves the connections that the primary gives it, or those of its own port (LISTEN=workers), until it is
 * told to drain.
 */
export async function runWorker({ config, logger }: { config: Config; logger: Logger }): Promise<void> {
  const channel = channelToPrimary();
  const tell = (message: ToPrimary): void => {
    try {
      channel.send(message);
    } catch {
      // Without the primary this process ends.
    }
  };
  setInterval(() => tell({ type: 'taskwire:alive' }), BEAT_MS).unref();
  const broker = await openBroker(config, logger, async () => {
    const { LocalBroker } = await import('../broker/local/local-broker.js');
    const { createAdapter } = await import('@socket.io/cluster-adapter');
    return new LocalBroker(channel, createAdapter, logger);
  });
  const listens = config.LISTEN === 'workers';
  const server = createServer({ config, databaseUrl: config.DATABASE_URL!, broker, logger, listens });
  if (!listens) {
    const closed = new TurnBatch<void>((ends) => tell({ type: 'taskwire:closed', connections: ends.length }));
    serveHandedOver(server.http, server.io.engine, () => closed.add());
  }
  tidyAfterStorms(server.http);

  let draining = false;
  const drain = async (): Promise<void> => {
    if (!draining) {
      draining = true;
      // Requests that were handed over before are read first.
      await setImmediate();
      await server.drain(config.DRAIN_SECONDS);
      await server.stop();
      process.exit(0);
    }
  };
  channel.onMessage((message) => {
    if (message.type === 'taskwire:drain') {
      void drain();
    } else if (message.type === 'taskwire:died') {
      void broker.bury(message.nodeId);
    } else if (message.type === 'taskwire:changed') {
      server.look(message.users);
    } else if (message.type === 'taskwire:listening') {
      server.setListening(message.listening);
    }
  });
  process.on('SIGTERM', () => void drain());
  // A terminal sends these signals to all processes; the primary decides.
  process.on('SIGINT', () => {});
  process.on('SIGHUP', () => {});
  // Without the primary nobody would end this process any more.
  channel.onClose(() => process.exit(1));

  await server.start();
  if (!draining) {
    tell({ type: 'taskwire:ready', nodeId: broker.nodeId });
  }
}
