import type { Request, Response } from 'express';
import type { Authenticate as Authenticator } from '../door/authenticator.js';
import { credentialsOf, type QueryCredentials } from '../door/credentials.js';
import { assertAllowed, type RateLimiter, rateLimitHeaders } from '../door/rate-limit.js';
import { TaskwireError } from '../protocol/errors.js';
import { type Identity, mayDo, type Scope } from '../protocol/tasks.js';

/** Says who makes a request and counts it; the answer gets the headers that tell how many more there may be. */
export type Authenticate = (request: Request, response: Response) => Promise<Identity>;

/**
 * @param query what of the query is read: event streams take a token there, since a browser's `EventSource` sets no headers
 * @returns a function that throws what `Authenticator.authenticate` throws, and RATE_LIMIT_EXCEEDED
 */
export function createAuthenticate(
  keys: Pick<Authenticator, 'authenticate'>,
  rates: Pick<RateLimiter, 'count'>,
  query: QueryCredentials = 'none',
): Authenticate {
  return async (request, response) => {
    const identity = await keys.authenticate(credentialsOf(request, { query }));
    const result = await rates.count(identity);
    response.set(rateLimitHeaders(result));
    assertAllowed(result);
    return identity;
  };
}

/** @throws TaskwireError ACCESS_DENIED when somebody may not do such things */
export function assertMayDo(identity: Identity, scope: Scope): void {
  if (!mayDo(identity, scope)) {
    throw new TaskwireError('ACCESS_DENIED');
  }
}
