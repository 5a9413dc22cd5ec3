import { createSecretKey, type KeyObject, randomUUID } from 'node:crypto';
import { decodeJwt, errors, type JWTPayload, jwtVerify, SignJWT } from 'jose';
import { TaskwireError } from '../protocol/errors.js';
import { isUserId, parseRoom } from '../protocol/rooms.js';
import type { Identity } from '../protocol/tasks.js';
import { MAX_TOKEN_LENGTH } from './credentials.js';
import { IssuerKeys, type KeySet } from './issuer-keys.js';

/** Another issuer of tokens: the application's own. */
export interface TokenIssuer {
  /** `iss` of its tokens. */
  readonly issuer: string;
  /** `aud` of those that are meant for this service. */
  readonly audience: string;
  /** Where its public keys are: a URL, or a set of keys (RFC 7517). */
  readonly keys: URL | KeySet;
}

export interface TokensOptions {
  /** Secrets of tokens made here: the first one signs, all of them verify. Empty: none are made. */
  readonly secrets: readonly string[];
  readonly issuer?: TokenIssuer | undefined;
  /** Whether tokens of a key are taken. */
  readonly isActive: (keyId: string) => boolean;
  /** Requests per minute of a token of the other issuer. */
  readonly rateLimit: number;
}

/** What a token is to allow. */
export type TokenRequest = { readonly expires_in: number } & (
  | { readonly rooms: readonly string[]; readonly user?: undefined }
  | { readonly user: string; readonly rooms?: undefined }
);

/** `iss` and `aud` of tokens made here. */
export const OWN_ISSUER = 'taskwire';
/** Rooms of one token: it has to fit into a header. */
export const MAX_TOKEN_ROOMS = 64;
/** Longest life of a token made here, in seconds: a day. */
export const MAX_TOKEN_SECONDS = 86_400;
/** By how much the clock of another issuer may differ, in seconds. */
const CLOCK_TOLERANCE = 5;
/** A later end of a token, in seconds since 1970, is taken for a mistake: this one is in the year 5138. */
const MAX_EXPIRY = 1e11;
/** Only algorithms with a public key: with others, the public key of an issuer could be used as a secret. */
const PUBLIC_ALGORITHMS = [
  'RS256',
  'RS384',
  'RS512',
  'PS256',
  'PS384',
  'PS512',
  'ES256',
  'ES384',
  'ES512',
  'EdDSA',
  'Ed25519',
];

/** What stands in a token that is made here, beside `iss`, `aud`, `iat`, `exp` and `jti`. */
interface OwnClaims extends JWTPayload {
  /** Id of the key that made it. */
  readonly key?: unknown;
  /** User id of that key's owner. */
  readonly owner?: unknown;
  /** Requests per minute. */
  readonly limit?: unknown;
  /** The user whose rooms it may show; absent: everybody's, of those in `rooms`. */
  readonly sub?: string;
  /** The rooms that it shows; absent: all of `sub`. */
  readonly rooms?: unknown;
}

/** Makes tokens and verifies them. It asks nobody but the issuer for its keys. */
export class Tokens {
  private readonly secrets: readonly KeyObject[];
  private readonly issuerKeys: IssuerKeys | undefined;

  constructor(private readonly options: TokensOptions) {
    this.secrets = options.secrets.map((secret) => createSecretKey(Buffer.from(secret)));
    this.issuerKeys = options.issuer && new IssuerKeys(options.issuer.keys);
  }

  /**
   * Makes a token. The caller has checked that its maker may see what it allows.
   * @param restrict the only user whose rooms it may show; undefined when its maker sees everybody's
   * @throws TaskwireError TOKENS_NOT_CONFIGURED, INVALID_REQUEST (it would be longer than any that is taken)
   */
  async create(
    maker: Identity,
    request: TokenRequest,
    restrict: string | undefined,
  ): Promise<{ token: string; expiresAt: Date }> {
    const [secret] = this.secrets;
    if (secret === undefined) {
      throw new TaskwireError('TOKENS_NOT_CONFIGURED');
    }
    const now = Math.floor(Date.now() / 1_000);
    const expires = now + request.expires_in;
    const user = request.user ?? restrict;
    const claims: OwnClaims = {
      key: maker.keyId,
      owner: maker.owner,
      limit: maker.rateLimit,
      ...(user === undefined ? {} : { sub: user }),
      ...(request.rooms === undefined ? {} : { rooms: request.rooms }),
    };
    const token = await new SignJWT(claims)
      .setProtectedHeader({ alg: 'HS256', typ: 'JWT' })
      .setIssuer(OWN_ISSUER)
      .setAudience(OWN_ISSUER)
      .setIssuedAt(now)
      .setExpirationTime(expires)
      .setJti(randomUUID())
      .sign(secret);
    if (token.length > MAX_TOKEN_LENGTH) {
      throw new TaskwireError('INVALID_REQUEST', {
        message: `The names of these rooms make a token of ${token.length} characters, of at most ${MAX_TOKEN_LENGTH}: name fewer`,
      });
    }
    return { token, expiresAt: new Date(expires * 1_000) };
  }

  /**
   * Verifies a token. @returns what it allows
   * @throws TaskwireError INVALID_TOKEN, TOKEN_EXPIRED, INACTIVE_API_KEY (the key that made it), TOKEN_ISSUER_UNAVAILABLE
   */
  async verify(token: string): Promise<Identity> {
    try {
      const { issuer } = this.options;
      return decodeJwt(token).iss === issuer?.issuer && issuer !== undefined
        ? await this.verifyIssued(token, issuer)
        : await this.verifyOwn(token);
    } catch (error) {
      throw refusalOf(error);
    }
  }

  private async verifyOwn(token: string): Promise<Identity> {
    const { payload } = await this.withAnySecret(token);
    const { key, owner, limit, sub, rooms, exp, jti } = payload as OwnClaims;
    const known = typeof key === 'string' && typeof owner === 'string' && typeof limit === 'number';
    if (!known || (sub === undefined && rooms === undefined)) {
      throw new TaskwireError('INVALID_TOKEN');
    }
    if (!this.options.isActive(key)) {
      throw new TaskwireError('INACTIVE_API_KEY', { message: 'The API key that made this token is not active' });
    }
    return {
      keyId: `token:${jti}`,
      owner: sub ?? owner,
      role: 'reader',
      rateLimit: limit,
      token: { rooms: roomsOf(rooms), user: sub, expiresAt: exp! * 1_000, keyId: key },
    };
  }

  private async withAnySecret(token: string): Promise<Awaited<ReturnType<typeof jwtVerify>>> {
    let failure: unknown = new TaskwireError('INVALID_TOKEN');
    for (const secret of this.secrets) {
      try {
        return await jwtVerify(token, secret, {
          issuer: OWN_ISSUER,
          audience: OWN_ISSUER,
          algorithms: ['HS256'],
          requiredClaims: ['exp', 'jti'],
        });
      } catch (error) {
        failure = error;
        if (!(error instanceof errors.JWSSignatureVerificationFailed)) {
          break;
        }
      }
    }
    throw failure;
  }

  private async verifyIssued(token: string, { issuer, audience }: TokenIssuer): Promise<Identity> {
    const { sub, exp, rooms } = await this.issuerKeys!.verify(token, {
      issuer,
      audience,
      algorithms: PUBLIC_ALGORITHMS,
      requiredClaims: ['exp', 'sub'],
      clockTolerance: CLOCK_TOLERANCE,
    });
    if (typeof sub !== 'string' || !isUserId(sub)) {
      throw new TaskwireError('INVALID_TOKEN', { message: 'Claim "sub" wants a user id' });
    }
    if (exp! > MAX_EXPIRY) {
      throw new TaskwireError('INVALID_TOKEN', { message: 'Claim "exp" wants seconds since 1970, not milliseconds' });
    }
    return {
      keyId: `issued:${sub}`,
      owner: sub,
      role: 'reader',
      rateLimit: this.options.rateLimit,
      token: { rooms: roomsOf(rooms), user: sub, expiresAt: (exp! + CLOCK_TOLERANCE) * 1_000 },
    };
  }
}

/** The claim `rooms`: absent, or a list of names. */
function roomsOf(rooms: unknown): ReadonlySet<string> | undefined {
  if (rooms === undefined) {
    return undefined;
  }
  if (!Array.isArray(rooms) || rooms.length > 10 * MAX_TOKEN_ROOMS) {
    throw new TaskwireError('INVALID_TOKEN', { message: 'Claim "rooms" wants a list of room names' });
  }
  return new Set(rooms.map((room) => parseRoom(room).name));
}

function refusalOf(error: unknown): TaskwireError {
  if (error instanceof errors.JWTExpired) {
    return new TaskwireError('TOKEN_EXPIRED');
  }
  if (error instanceof TaskwireError) {
    return error.code === 'INVALID_ROOM'
      ? new TaskwireError('INVALID_TOKEN', { message: 'Claim "rooms" wants a list of room names' })
      : error;
  }
  if (error instanceof errors.JWTClaimValidationFailed) {
    return new TaskwireError('INVALID_TOKEN', { message: `Invalid token: claim "${error.claim}" is not as expected` });
  }
  const ofItsForm =
    error instanceof errors.JOSEError && !(error instanceof errors.JWKSTimeout) && error.code !== 'ERR_JOSE_GENERIC';
  return ofItsForm
    ? new TaskwireError('INVALID_TOKEN')
    : new TaskwireError('TOKEN_ISSUER_UNAVAILABLE', { cause: error });
}
