import type { Logger } from '../../src/base/logger.js';

/** A logger that shows warnings and errors only. */
export const quiet: Logger = {
  error: (message, fields) => console.error(message, fields ?? ''),
  warn: (message, fields) => console.error(message, fields ?? ''),
  info() {},
  debug() {},
  child: () => quiet,
};
