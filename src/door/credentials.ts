import type { IncomingMessage } from 'node:http';
import { canBeApiKey } from '../protocol/api-key-form.js';
import { TaskwireError } from '../protocol/errors.js';

/** Where a key may stand; what is empty counts as absent. */
export interface Credentials {
  /** `?api_key=`; more than one value when it is repeated. */
  readonly query?: readonly string[];
  /** `X-Api-Key`. */
  readonly header?: string | readonly string[] | undefined;
  /** What a Socket.IO client sent in `auth.api_key`, whatever it is. */
  readonly auth?: unknown;
}

/** The keys that a request carries, and what else came with it. */
export function credentialsOf(request: IncomingMessage, auth?: unknown): Credentials {
  return { query: queryOf(request).getAll('api_key'), header: request.headers['x-api-key'], auth };
}

/** The query of a request's target. */
export function queryOf(request: IncomingMessage): URLSearchParams {
  const url = request.url ?? '';
  const mark = url.indexOf('?');
  return new URLSearchParams(mark === -1 ? '' : url.slice(mark + 1));
}

/**
 * The one key of a request. Nothing is looked up for what cannot be a key.
 * @throws TaskwireError MISSING_API_KEY, AUTHENTICATION_FAILED when two places disagree, INVALID_API_KEY
 */
export function apiKeyOf({ query = [], header = [], auth }: Credentials): string {
  const given = new Set<unknown>([...query, ...(typeof header === 'string' ? [header] : header), auth]);
  for (const nothing of ['', undefined, null]) {
    given.delete(nothing);
  }
  if (given.size === 0) {
    throw new TaskwireError('MISSING_API_KEY');
  }
  if (given.size > 1) {
    throw new TaskwireError('AUTHENTICATION_FAILED', { message: 'Different API keys in one request' });
  }
  const [key] = given;
  if (typeof key !== 'string' || !canBeApiKey(key)) {
    throw new TaskwireError('INVALID_API_KEY');
  }
  return key;
}
