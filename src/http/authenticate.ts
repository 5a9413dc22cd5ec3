import type { Request, Response } from 'express';
import type { ApiKeyAuth } from '../door/api-key.js';
import { credentialsOf } from '../door/credentials.js';
import { assertAllowed, type RateLimiter, rateLimitHeaders } from '../door/rate-limit.js';
import { TaskwireError } from '../protocol/errors.js';
import type { Identity, Role } from '../protocol/tasks.js';

/** Says who makes a request and counts it; the answer gets the headers that tell how many more there may be. */
export type Authenticate = (request: Request, response: Response) => Promise<Identity>;

/** @returns a function that throws what `ApiKeyAuth.authenticate` throws, and RATE_LIMIT_EXCEEDED */
export function createAuthenticate(
  keys: Pick<ApiKeyAuth, 'authenticate'>,
  rates: Pick<RateLimiter, 'count'>,
): Authenticate {
  return async (request, response) => {
    const identity = await keys.authenticate(credentialsOf(request));
    const result = await rates.count(identity);
    response.set(rateLimitHeaders(result));
    assertAllowed(result);
    return identity;
  };
}

/** @throws TaskwireError ACCESS_DENIED when the key has none of the roles */
export function assertRole({ role }: Identity, ...roles: readonly Role[]): void {
  if (!roles.includes(role)) {
    throw new TaskwireError('ACCESS_DENIED');
  }
}
