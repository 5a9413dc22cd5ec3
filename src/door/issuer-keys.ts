import {
  createLocalJWKSet,
  createRemoteJWKSet,
  decodeProtectedHeader,
  errors,
  type JWTPayload,
  type JWTVerifyGetKey,
  type JWTVerifyOptions,
  jwtVerify,
} from 'jose';
import { TaskwireError } from '../protocol/errors.js';

/** A set of public keys (RFC 7517). */
export interface KeySet {
  readonly keys: readonly object[];
}

/** Shortest time between two fetches of the set, in milliseconds, whatever keys tokens name. */
const COOLDOWN_MS = 5_000;

/**
 * The public keys of another issuer. They are fetched when a token needs one that is not there, so the issuer may change
 * them at any time, with or without `kid`.
 */
export class IssuerKeys {
  private readonly remote: ReturnType<typeof createRemoteJWKSet> | undefined;
  private readonly find: JWTVerifyGetKey;

  /** @param source where the keys are, or the keys themselves */
  constructor(source: URL | KeySet) {
    if (source instanceof URL) {
      this.remote = createRemoteJWKSet(source, { cooldownDuration: COOLDOWN_MS });
      this.find = this.remote;
    } else {
      this.find = createLocalJWKSet({ keys: [...source.keys] } as Parameters<typeof createLocalJWKSet>[0]);
    }
  }

  /** @throws TaskwireError TOKEN_ISSUER_UNAVAILABLE, and what `jwtVerify` throws */
  async verify(token: string, options: JWTVerifyOptions): Promise<JWTPayload> {
    const fetchedJustNow = this.remote?.coolingDown === true;
    try {
      return await this.withEach(token, options);
    } catch (error) {
      if (error instanceof errors.JWKSInvalid) {
        throw new TaskwireError('TOKEN_ISSUER_UNAVAILABLE', { cause: error });
      }
      if (error instanceof errors.JWKSNoMatchingKey && fetchedJustNow) {
        throw new TaskwireError('TOKEN_ISSUER_UNAVAILABLE', {
          message: 'The key of this token is not among those that its issuer had a moment ago',
          retryAfterMs: COOLDOWN_MS,
        });
      }
      const unnamed =
        error instanceof errors.JWSSignatureVerificationFailed && !('kid' in decodeProtectedHeader(token));
      if (unnamed && this.remote !== undefined && !fetchedJustNow) {
        // The token names no key. When none fits, the issuer may have a new one.
        await this.remote.reload();
        return this.withEach(token, options);
      }
      throw error;
    }
  }

  /** Tries each key of a token that does not say which of several it is. */
  private async withEach(token: string, options: JWTVerifyOptions): Promise<JWTPayload> {
    try {
      return (await jwtVerify(token, this.find, options)).payload;
    } catch (error) {
      if (!(error instanceof errors.JWKSMultipleMatchingKeys)) {
        throw error;
      }
      for await (const key of error) {
        try {
          return (await jwtVerify(token, key, options)).payload;
        } catch (failure) {
          if (!(failure instanceof errors.JWSSignatureVerificationFailed)) {
            throw failure;
          }
        }
      }
      throw new errors.JWSSignatureVerificationFailed();
    }
  }
}
