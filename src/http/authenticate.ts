import type { Request, Response } from 'express';
import { type AddressOf, addressGroup } from '../door/client-address.js';
import { credentialsOf, type QueryCredentials } from '../door/credentials.js';
import type { KeyGuard } from '../door/key-guard.js';
import { assertAllowed, type RateLimiter, type RateLimitResult, rateLimitHeaders } from '../door/rate-limit.js';
import type { RefusalLog } from '../door/refusal-log.js';
import { TaskwireError, toTaskwireError } from '../protocol/errors.js';
import { type Identity, mayDo, type Scope } from '../protocol/tasks.js';

/** Authenticates a request and counts it. The answer gets the headers of the rate limit. */
export type Authenticate = (request: Request, response: Response) => Promise<Identity>;

/** Name under which a response keeps the result of the count. */
const COUNTED = 'rate';

/**
 * Counts further requests: a batch counts as many as it has items, and the first one was counted already.
 * @throws TaskwireError RATE_LIMIT_EXCEEDED when so many are not left in this minute, INVALID_REQUEST when there are never
 * so many; nothing is counted then
 */
export type CountMore = (identity: Identity, response: Response, requests: number) => Promise<void>;

export function createCountMore({ rates }: Pick<AuthenticatePorts, 'rates'>): CountMore {
  return async (identity, response, requests) => {
    const { limit, remaining, resetMs } = response.locals[COUNTED] as RateLimitResult;
    if (requests >= limit) {
      throw new TaskwireError('INVALID_REQUEST', {
        message: `A batch may have at most ${limit} items here: each is a request, and the key may make ${limit} a minute`,
      });
    }
    if (requests > remaining) {
      assertAllowed({ allowed: false, limit, remaining, resetMs });
    }
    if (requests > 0) {
      const result = await rates.count(identity, requests);
      response.set(rateLimitHeaders(result));
      assertAllowed(result);
    }
  };
}

export interface AuthenticatePorts {
  readonly keys: Pick<KeyGuard, 'authenticate'>;
  readonly rates: Pick<RateLimiter, 'count'>;
  readonly addressOf: AddressOf;
  /** Told about those that are refused. */
  readonly refusals: Pick<RefusalLog, 'note'>;
}

/**
 * @param query what of the query is read: event streams take a token there, since a browser's `EventSource` sets no headers
 * @returns a function that throws what `KeyGuard.authenticate` throws, and RATE_LIMIT_EXCEEDED
 */
export function createAuthenticate(
  { keys, rates, addressOf, refusals }: AuthenticatePorts,
  query: QueryCredentials = 'none',
): Authenticate {
  return async (request, response) => {
    const address = addressOf(request);
    let key: string | undefined;
    try {
      const identity = await keys.authenticate(credentialsOf(request, { query }), addressGroup(address));
      key = identity.keyId;
      const result = await rates.count(identity);
      response.set(rateLimitHeaders(result));
      response.locals[COUNTED] = result;
      assertAllowed(result);
      return identity;
    } catch (error) {
      const { code, message } = toTaskwireError(error);
      refusals.note({ code, reason: message, address, key });
      throw error;
    }
  };
}

/** @throws TaskwireError ACCESS_DENIED when somebody may not do such things */
export function assertMayDo(identity: Identity, scope: Scope): void {
  if (!mayDo(identity, scope)) {
    throw new TaskwireError('ACCESS_DENIED');
  }
}
