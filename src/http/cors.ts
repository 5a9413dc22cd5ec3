import type { RequestHandler } from 'express';
import type { CheckOrigin } from '../door/origin.js';
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

/** CORS: lets pages of allowed origins read the answers, and answers preflight requests. */
export function cors(checkOrigin: CheckOrigin): RequestHandler {
  return (request, response, next) => {
    response.vary('Origin');
    checkOrigin(request);
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
