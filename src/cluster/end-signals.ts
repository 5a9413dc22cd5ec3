import type { Logger } from '../base/logger.js';
import { onParentGone } from './parent.js';

/** A Ctrl-C arrives twice, by the terminal and by npm. Signals within so long of the first count as one, in milliseconds. */
const SAME_SIGNAL_MS = 1_000;

/**
 * SIGTERM and SIGINT: the first drains, a second one ends everything at once with exit code 1. That the parent is gone, where that is
 * watched, counts as the first.
 * @param options `drain` is called once and ends the process itself; `kill` ends what this process has started
 */
export function onEndSignals(options: {
  readonly logger: Logger;
  readonly drainSeconds: number;
  readonly drain: () => void;
  readonly kill: () => void;
}): void {
  const { logger, drainSeconds, drain, kill } = options;
  let since: number | undefined;
  const end = (signal: string): void => {
    if (since === undefined) {
      since = performance.now();
      logger.info('ending', { signal, drain_seconds: drainSeconds });
      drain();
    } else if (performance.now() - since >= SAME_SIGNAL_MS) {
      logger.warn('ending at once', { signal });
      kill();
      process.exit(1);
    }
  };
  process.on('SIGTERM', end);
  process.on('SIGINT', end);
  onParentGone(() => {
    if (since === undefined) {
      end('parent gone');
    }
  });
}
