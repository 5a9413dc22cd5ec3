import type { Logger } from '../base/logger.js';
import { VARIABLES } from '../config.js';
import { nearest } from '../protocol/nearest.js';

/** Beginnings of variables that only this program has. */
const OWN = /^TASKWIRE_/;

/**
 * Warns of variables that look like ours and are not read: a setting that has no effect is worse than an error.
 *
 *     REDIS_URI is not read; did you mean REDIS_URL?
 */
export function warnOfUnknownVariables(given: readonly string[], logger: Pick<Logger, 'warn'>): void {
  for (const variable of given) {
    if (!VARIABLES.includes(variable) && /^[A-Z][A-Z0-9_]*$/.test(variable)) {
      // Other programs have similar variables, so in short names only one letter may differ.
      const meant = nearest(variable, VARIABLES, variable.length < 12 ? 1 : 2);
      if (meant !== undefined || OWN.test(variable)) {
        logger.warn('a variable is not read', { variable, ...(meant === undefined ? {} : { did_you_mean: meant }) });
      }
    }
  }
}
