import type { Logger } from '../base/logger.js';
import type { ErrorCode } from '../protocol/errors.js';

export interface MaintenanceOptions {
  readonly log: { trim(hours: number): Promise<number> };
  /** Removes keys of writes that are too old. */
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

/** What a worker does now and then: removes expired events and keys of writes, and closes connections whose key is no longer active. */
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

  /** Never rejects: a revoked key that goes unheard now is found the next time. */
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

  /** All workers try; the log lets one of them at a time. */
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
    // Workers that started together should not come together. Never later than asked: a timer has a longest time.
    return setInterval(() => void work(), ms * (0.75 + Math.random() / 4)).unref();
  }
}
