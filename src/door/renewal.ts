import type { AuthData } from '../protocol/auth.js';
import { toTaskwireError } from '../protocol/errors.js';
import type { Identity } from '../protocol/tasks.js';
import { credentialsOfMessage } from './credentials.js';
import { assertMayRead } from './door.js';
import type { KeyGuard } from './key-guard.js';
import type { RateLimiter } from './rate-limit.js';
import type { RefusalLog } from './refusal-log.js';

export interface RenewalOptions {
  readonly keys: Pick<KeyGuard, 'authenticate' | 'revision'>;
  readonly rates: Pick<RateLimiter, 'check'>;
  /** Told about those that are refused. */
  readonly refusals?: Pick<RefusalLog, 'note'>;
}

/** The result of new credentials. */
export interface Renewal {
  readonly identity: Identity;
  /**
   * Checks again when keys have changed since. A key that was disabled meanwhile has not closed this connection, which did
   * not belong to it yet.
   * @throws TaskwireError as `Renew`
   */
  confirm(): Promise<void>;
}

/**
 * The door for a connection that sends an AUTH message. The new key or token is checked like the first one; the connection
 * keeps its place.
 * @param before the present identity. Wrong keys are counted for it, as those of a new connection are for its address
 * @throws TaskwireError those of `KeyGuard.authenticate`, ACCESS_DENIED (a key that may not read), RATE_LIMIT_EXCEEDED
 */
export type Renew = (data: AuthData, before: Identity) => Promise<Renewal>;

export function createRenew({ keys, rates, refusals }: RenewalOptions): Renew {
  const noted =
    (key: string) =>
    (error: unknown): never => {
      const { code, message } = toTaskwireError(error);
      refusals?.note({ code, reason: message, key });
      throw error;
    };
  return async (data, { keyId }) => {
    const { revision } = keys;
    const authenticate = async (): Promise<Identity> => {
      const identity = await keys.authenticate(credentialsOfMessage(data), `key ${keyId}`);
      assertMayRead(identity);
      return identity;
    };
    const identity = await authenticate().catch(noted(keyId));
    await rates.check(identity).catch(noted(identity.keyId));
    return {
      identity,
      async confirm() {
        if (keys.revision !== revision) {
          await authenticate().catch(noted(keyId));
        }
      },
    };
  };
}
