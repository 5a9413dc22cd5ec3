import type { AuthData } from '../protocol/auth.js';
import type { Identity } from '../protocol/tasks.js';
import { credentialsOfMessage } from './credentials.js';
import { assertMayRead } from './door.js';
import type { KeyGuard } from './key-guard.js';
import type { RateLimiter } from './rate-limit.js';

export interface RenewalOptions {
  readonly keys: Pick<KeyGuard, 'authenticate' | 'revision'>;
  readonly rates: Pick<RateLimiter, 'check'>;
}

/** Who somebody is by new credentials. */
export interface Renewal {
  readonly identity: Identity;
  /**
   * Checks again what may have changed since: a key that was disabled meanwhile closed only the connections that it had.
   * @throws TaskwireError as `Renew`
   */
  confirm(): Promise<void>;
}

/**
 * The door for a connection that is in and sends an AUTH message. Its new key or token has to pass what the first one has
 * passed; the connection keeps its place.
 * @param before who it is until now: whoever is in may guess no more keys than whoever stands outside
 * @throws TaskwireError those of `KeyGuard.authenticate`, ACCESS_DENIED (a key that may not read), RATE_LIMIT_EXCEEDED
 */
export type Renew = (data: AuthData, before: Identity) => Promise<Renewal>;

export function createRenew({ keys, rates }: RenewalOptions): Renew {
  return async (data, { keyId }) => {
    const { revision } = keys;
    const authenticate = async (): Promise<Identity> => {
      const identity = await keys.authenticate(credentialsOfMessage(data), `key ${keyId}`);
      assertMayRead(identity);
      return identity;
    };
    const identity = await authenticate();
    await rates.check(identity);
    return {
      identity,
      async confirm() {
        if (keys.revision !== revision) {
          await authenticate();
        }
      },
    };
  };
}
