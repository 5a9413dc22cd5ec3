import type { IncomingMessage } from 'node:http';
import type { ConnectionPlaces } from '../broker/broker.js';
import type { AuthData } from '../protocol/auth.js';
import { TaskwireError, toTaskwireError } from '../protocol/errors.js';
import { type Identity, mayDo } from '../protocol/tasks.js';
import { type AddressOf, addressGroup } from './client-address.js';
import {
  type Credentials,
  credentialsOf,
  credentialsOfMessage,
  isEmpty,
  type QueryCredentials,
} from './credentials.js';
import type { KeyGuard } from './key-guard.js';
import type { CheckOrigin } from './origin.js';
import type { PlaceClaims } from './place-claims.js';
import type { RateLimiter } from './rate-limit.js';
import type { RefusalLog } from './refusal-log.js';

export interface DoorOptions {
  readonly checkOrigin: CheckOrigin;
  readonly keys: Pick<KeyGuard, 'authenticate' | 'revision'>;
  readonly rates: Pick<RateLimiter, 'check'>;
  readonly addressOf: AddressOf;
  readonly connections: ConnectionPlaces;
  /** Connections of one address over the whole cluster. */
  readonly maxConnectionsPerIp: number;
  /** Told when all places of an address are taken. */
  readonly claims?: Pick<PlaceClaims, 'make'>;
  /** Told about those that are refused. */
  readonly refusals?: Pick<RefusalLog, 'note'>;
}

/** Somebody who wants to connect. */
export interface Visitor {
  readonly request: IncomingMessage;
  /** What a Socket.IO client sent as `auth`, unchecked. */
  readonly auth?: unknown;
  /** What of the request's query is read: everything when absent. */
  readonly query?: QueryCredentials;
  /**
   * Waits for the first message of somebody who came without credentials, and reads it.
   * @throws TaskwireError MISSING_API_KEY, INVALID_MESSAGE
   */
  readonly ask?: () => Promise<AuthData>;
}

/** A connection's credentials, kept while it lives. */
export interface Admission {
  readonly identity: Identity;
  /** The client's address after trusted proxies. */
  readonly address: string;
  release(): void;
}

/**
 * Lets a connection in.
 * @returns who it is; the caller gives the place back with `release()` when the connection ends, on whatever way
 * @throws TaskwireError ORIGIN_NOT_ALLOWED, those of `ApiKeyAuth.authenticate`, RATE_LIMIT_EXCEEDED
 */
export type Admit = (visitor: Visitor) => Promise<Admission>;

/** How soon a client that found all places of its address taken may try again, in milliseconds. */
const FULL_RETRY_MS = 5_000;

/** @throws TaskwireError ACCESS_DENIED: a key of which the scopes leave reading out has nothing to do on a connection */
export function assertMayRead(identity: Identity): void {
  if (!mayDo(identity, 'read')) {
    throw new TaskwireError('ACCESS_DENIED', { message: 'This key may not read' });
  }
}

/**
 * The door of all transports. It checks the origin, the key or token, the rate limit and a free place of the address; the
 * first refusal is the answer. A client that sends its credentials in a first message takes the place before that, so that
 * no address can have more waiting clients than connections.
 */
export function createDoor(options: DoorOptions): Admit {
  const { checkOrigin, keys, rates, addressOf, connections, maxConnectionsPerIp, refusals, claims } = options;

  async function placeOf(address: string): Promise<() => void> {
    const release = await connections.acquireConnection(addressGroup(address), maxConnectionsPerIp);
    if (release === undefined) {
      throw new TaskwireError('RATE_LIMIT_EXCEEDED', {
        message: 'Too many connections from this address',
        details: { limit: maxConnectionsPerIp },
        retryAfterMs: FULL_RETRY_MS,
      });
    }
    return release;
  }

  async function authenticate(credentials: Credentials, address: string): Promise<Identity> {
    const identity = await keys.authenticate(credentials, addressGroup(address));
    assertMayRead(identity);
    return identity;
  }

  async function admit(
    { request, auth, query = 'all', ask }: Visitor,
    who: { address: string; key?: string },
  ): Promise<Admission> {
    checkOrigin(request);
    const { address } = who;
    let credentials = credentialsOf(request, { query, auth });
    let release: (() => void) | undefined;
    try {
      if (ask !== undefined && isEmpty(credentials) && credentials.hint?.() === undefined) {
        release = await placeOf(address);
        credentials = credentialsOfMessage(await ask());
      }
      const { revision } = keys;
      const identity = await authenticate(credentials, address);
      who.key = identity.keyId;
      // Asked for together, they are one round trip to the broker. A place that is not used is given back.
      const [rate, place] = await Promise.allSettled([rates.check(identity), release ?? placeOf(address)]);
      release = place.status === 'fulfilled' ? place.value : undefined;
      if (release === undefined) {
        // Perhaps an old connection of the same client is dead, and nobody has noticed yet.
        claims?.make({ keyId: identity.keyId, group: addressGroup(address) });
      }
      for (const step of [rate, place]) {
        if (step.status === 'rejected') {
          throw step.reason;
        }
      }
      // A key that was revoked meanwhile has closed its connections, but not this one, which is not registered yet.
      if (keys.revision !== revision) {
        await authenticate(credentials, address);
      }
      return { identity, address, release: release! };
    } catch (error) {
      release?.();
      throw error;
    }
  }

  return async (visitor) => {
    const who: { address: string; key?: string } = { address: addressOf(visitor.request) };
    try {
      return await admit(visitor, who);
    } catch (error) {
      const { code, message } = toTaskwireError(error);
      refusals?.note({ code, reason: message, ...who });
      throw error;
    }
  };
}
