import type { RequestHandler } from 'express';
import type { AddressOf } from '../door/client-address.js';
import type { CheckOrigin } from '../door/origin.js';
import type { RefusalLog } from '../door/refusal-log.js';
import { toTaskwireError } from '../protocol/errors.js';
import { POSITION_HEADERS } from './endpoint.js';

const ALLOWED_HEADERS = 'Authorization, Content-Type, Idempotency-Key, Last-Event-ID, X-Api-Key, X-Request-Id';
const EXPOSED_HEADERS = [
  'X-RateLimit-Limit',
  'X-RateLimit-Remaining',
  'X-RateLimit-Reset',
  'Retry-After',
  'X-Request-Id',
  ...Object.values(POSITION_HEADERS),
].join(', ');
const PREFLIGHT_SECONDS = '600';

export interface CorsPorts {
  readonly checkOrigin: CheckOrigin;
  readonly addressOf: AddressOf;
  /** Told about those that are refused. */
  readonly refusals: Pick<RefusalLog, 'note'>;
}

/**
 * CORS: lets pages of allowed origins read the answers, and answers preflight requests.
 * @returns a handler that throws ORIGIN_NOT_ALLOWED
 */
export function cors({ checkOrigin, addressOf, refusals }: CorsPorts): RequestHandler {
  return (request, response, next) => {
    response.vary('Origin');
    try {
      checkOrigin(request);
    } catch (error) {
      const { code, message } = toTaskwireError(error);
      refusals.note({ code, reason: message, address: addressOf(request) });
      throw error;
    }
    const { origin } = request.headers;
    if (origin === undefined) {
      next();
      return;
    }
    response.set('Access-Control-Allow-Origin', origin);
    // For pages that use `credentials: 'include'`. It gives nothing away, as no cookies are used here.
    response.set('Access-Control-Allow-Credentials', 'true');
    response.set('Access-Control-Expose-Headers', EXPOSED_HEADERS);
    if (request.method !== 'OPTIONS' || request.get('Access-Control-Request-Method') === undefined) {
      next();
      return;
    }
    response.set({
      'Access-Control-Allow-Methods': 'GET, POST, PUT, DELETE',
      'Access-Control-Allow-Headers': ALLOWED_HEADERS,
      'Access-Control-Max-Age': PREFLIGHT_SECONDS,
    });
    response.status(204).end();
  };
}
