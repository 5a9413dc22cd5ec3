import type { Logger } from '../base/logger.js';
import type { ErrorCode } from '../protocol/errors.js';

/** Who was refused. */
export interface Refusal {
  readonly code: ErrorCode;
  /** The message of the refusal, when it is not the one of the code. */
  readonly reason?: string | undefined;
  /** The client's address after trusted proxies; absent for what comes over an open connection. */
  readonly address?: string | undefined;
  /** Id of the key, as far as it is known. */
  readonly key?: string | undefined;
}

/** Lines of one window, and its length in milliseconds. */
const MAX_LINES = 20;
const WINDOW_MS = 10_000;

/** Logs refusals at the door, one line each at level info. Of very many, the first are shown and the rest is counted. */
export class RefusalLog {
  private lines = 0;
  private hidden = 0;
  private timer: NodeJS.Timeout | undefined;

  constructor(private readonly logger: Pick<Logger, 'info'>) {}

  note({ code, reason, address, key }: Refusal): void {
    this.timer ??= setTimeout(() => this.endWindow(), WINDOW_MS).unref();
    if (this.lines >= MAX_LINES) {
      this.hidden += 1;
      return;
    }
    this.lines += 1;
    this.logger.info('refused', {
      code,
      ...(address === undefined ? {} : { address }),
      ...(reason === undefined ? {} : { reason }),
      ...(key === undefined ? {} : { key }),
    });
  }

  private endWindow(): void {
    this.timer = undefined;
    if (this.hidden > 0) {
      this.logger.info('refused more, not shown', { count: this.hidden, seconds: WINDOW_MS / 1_000 });
    }
    this.lines = 0;
    this.hidden = 0;
  }
}
