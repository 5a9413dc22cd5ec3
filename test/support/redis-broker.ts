import type { Logger } from '../../src/base/logger.js';
import type { RedisBroker } from '../../src/broker/redis/redis-broker.js';

/** Ends a broker as kill -9 would: it gives nothing back. */
export function crash(broker: RedisBroker): void {
  const { leases, commands, subscriptions, heartbeat } = broker as unknown as {
    leases: { renewal: NodeJS.Timeout; stopped: boolean };
    commands: { disconnect(): void };
    subscriptions: { stop(): void };
    heartbeat: NodeJS.Timeout;
  };
  clearInterval(heartbeat);
  clearTimeout(leases.renewal);
  leases.stopped = true;
  commands.disconnect();
  subscriptions.stop();
}

export interface LogLine {
  readonly level: 'error' | 'warn' | 'info' | 'debug';
  readonly message: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

/** A logger that keeps its lines. */
export function keepingLogger(): { logger: Logger; lines: LogLine[] } {
  const lines: LogLine[] = [];
  const note =
    (level: LogLine['level']) =>
    (message: string, fields: Record<string, unknown> = {}): void => {
      lines.push({ level, message, fields });
    };
  const logger: Logger = {
    error: note('error'),
    warn: note('warn'),
    info: note('info'),
    debug: note('debug'),
    child: () => logger,
  };
  return { logger, lines };
}
