import type { Logger } from '../base/logger.js';
import type { ErrorCode } from '../protocol/errors.js';

export interface MaintenanceOptions {
  readonly log: { trim(hours: number): Promise<number> };
  /** Removes idempotency keys that are too old. */
  readonly cleanWriteKeys: () => Promise<unknown>;
  readonly apiKeys: { active(keyIds: readonly string[]): Promise<ReadonlySet<string>> };
  readonly connections: { keyIds(): string[]; closeByKey(keyId: string, code: ErrorCode): void };
  readonly retentionHours: number;
  readonly logger: Logger;
  /** Between two looks at the keys of connections, in milliseconds. */
  readonly checkMs: number;
  /** Between two looks at the log, in milliseconds (60,000). */
  readonly trimMs?: number;
}

const TRIM_MS = 60_000;

/** Regular work of a worker: removes expired events and idempotency keys, and closes connections whose key is no longer valid. */
export class Maintenance {
  private timers: NodeJS.Timeout[] = [];

  constructor(private readonly options: MaintenanceOptions) {}

  start(): void {
    const { checkMs, trimMs = TRIM_MS } = this.options;
    this.timers = [this.every(trimMs, () => this.trim()), this.every(checkMs, () => this.checkKeys())];
  }

  stop(): void {
    for (const timer of this.timers) {
      clearInterval(timer);
    }
  }

  /** Closes connections whose key is no longer valid. Never rejects: after a failure the next call finds them. */
  async checkKeys(): Promise<void> {
    const { apiKeys, connections, logger } = this.options;
    const keyIds = connections.keyIds();
    if (keyIds.length === 0) {
      return;
    }
    try {
      const active = await apiKeys.active(keyIds);
      for (const keyId of keyIds) {
        if (!active.has(keyId)) {
          connections.closeByKey(keyId, 'INACTIVE_API_KEY');
        }
      }
    } catch (error) {
      logger.warn('keys of connections not checked', { error });
    }
  }

  /** All workers try; the log lets one of them work at a time. */
  private async trim(): Promise<void> {
    const { log, retentionHours, cleanWriteKeys, logger } = this.options;
    try {
      await cleanWriteKeys();
      const dropped = await log.trim(retentionHours);
      if (dropped > 0) {
        logger.info('expired events removed', { tables: dropped });
      }
    } catch (error) {
      logger.warn('expired events not removed yet', { error });
    }
  }

  private every(ms: number, work: () => Promise<void>): NodeJS.Timeout {
    // A random part less, so that workers that started together do not come together.
    return setInterval(() => void work(), ms * (0.75 + Math.random() / 4)).unref();
  }
}
