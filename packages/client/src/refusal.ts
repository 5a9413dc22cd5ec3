import { LATER } from './error-table.js';
import type { ErrorBody } from './protocol.js';
import type { LinkEnd } from './transport.js';

/** An error of the server as the end of a link. A code of a newer server is taken by what it says of the time to wait. */
export const refusal = ({ code, message, retry_after_ms }: ErrorBody): LinkEnd => ({
  later: LATER.includes(code) || retry_after_ms !== undefined,
  code,
  message,
  retryAfterMs: retry_after_ms,
});
