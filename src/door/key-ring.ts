import type { Logger } from '../base/logger.js';
import type { AddressBrake } from './address-brake.js';
import { ApiKeyAuth, type ApiKeyOptions } from './api-key.js';
import { Authenticator } from './authenticator.js';
import { KeyGuard } from './key-guard.js';
import { TokenKeys, type TokenKeysOptions } from './token-keys.js';
import { type TokenIssuer, Tokens } from './tokens.js';

/** What can happen to a key: it is no longer valid, or something else about it has changed. */
export type KeyChange = 'key-revoked' | 'key-changed';

export interface KeyRingOptions extends Pick<ApiKeyOptions, 'find' | 'onUse'>, Pick<TokenKeysOptions, 'active'> {
  /** How long a look-up of a key stays valid, in milliseconds. */
  readonly cacheMs: number;
  /** Secrets that tokens are signed with, the newest first. */
  readonly secrets: readonly string[];
  /** The application's own issuer of tokens, if there is one. */
  readonly issuer: TokenIssuer | undefined;
  /** Requests per minute of a token that names no limit. */
  readonly rateLimit: number;
  /** Slows addresses down whose keys are wrong. */
  readonly brake: AddressBrake;
  /** Closes the connections of a key that is no longer valid. */
  readonly close: (keyId: string) => void;
  /** Tells all workers, this one included. */
  readonly tell: (change: KeyChange, keyId: string) => Promise<void>;
  readonly logger: Pick<Logger, 'warn'>;
}

/** The keys and tokens of one worker: who they belong to, and what happens when a key changes. */
export class KeyRing {
  readonly tokens: Tokens;
  /** Authenticates callers; delays the answers to addresses with wrong keys. */
  readonly guard: KeyGuard;
  private readonly keys: ApiKeyAuth;
  private readonly tokenKeys: TokenKeys;

  constructor(private readonly options: KeyRingOptions) {
    const { find, onUse, active, cacheMs, secrets, issuer, rateLimit, brake } = options;
    this.keys = new ApiKeyAuth({ find, cacheMs, ...(onUse === undefined ? {} : { onUse }) });
    this.tokenKeys = new TokenKeys({ active, cacheMs, onInactive: (keyId) => this.take('key-revoked', { keyId }) });
    this.tokens = new Tokens({ secrets, issuer, isActive: (keyId) => this.tokenKeys.isActive(keyId), rateLimit });
    this.guard = new KeyGuard(new Authenticator(this.keys, this.tokens), brake);
  }

  /** Tells all workers of a change. Never rejects: without the broker, the others notice at their next look-up. */
  async announce(change: KeyChange, keyId: string): Promise<void> {
    try {
      await this.options.tell(change, keyId);
    } catch (error) {
      this.options.logger.warn('other workers learn of a key that has changed only when they look it up again', {
        error,
      });
      this.take(change, { keyId });
    }
  }

  /** Acts on a change that a worker has announced. @param message unchecked: another process wrote it */
  take(change: KeyChange, { keyId }: Readonly<Record<string, unknown>>): void {
    if (typeof keyId !== 'string') {
      return;
    }
    this.keys.forget(keyId);
    if (change === 'key-revoked') {
      this.tokenKeys.disable(keyId);
      this.options.close(keyId);
    } else {
      this.tokenKeys.forget(keyId);
    }
  }

  /** Has every key looked up at its next use: one may have changed while nobody could be told. */
  expireAll(): void {
    this.keys.expireAll();
    this.tokenKeys.expireAll();
  }
}
