import { LRUCache } from 'lru-cache';
import { SingleFlight } from '../base/single-flight.js';
import { TaskwireError } from '../protocol/errors.js';
import type { Identity } from '../protocol/tasks.js';
import { type ApiKeyRecord, hashApiKey } from '../repository/api-key-repository.js';
import { type Credentials, credentialOf } from './credentials.js';

export interface ApiKeyOptions {
  /** Looks a key up by its SHA-256. Rejects with DATABASE_UNAVAILABLE when it cannot. */
  readonly find: (hash: string) => Promise<ApiKeyRecord | undefined>;
  /** How long a look-up stays valid, in milliseconds. */
  readonly cacheMs: number;
  /** How much longer it stays valid while the database is away, in milliseconds (15 minutes). */
  readonly graceMs?: number;
  /** Told each time that an active key was used. */
  readonly onUse?: (keyId: string) => void;
  /** Milliseconds since any fixed moment. */
  readonly now?: () => number;
}

const GRACE_MS = 15 * 60_000;
/** After a failed look-up, the old one is used for so long before the next attempt, so that requests do not queue up. */
const RETRY_MS = 1_000;
const MAX_KEYS = 50_000;
const MAX_UNKNOWN = 10_000;
/** How long an unknown hash is remembered, in milliseconds. Keys are random, so it stays unknown. */
const UNKNOWN_MS = 60_000;

interface Known {
  readonly record: ApiKeyRecord;
  /** Until when the record is used without a new look-up. */
  fresh: number;
  /** Until when it is used if the look-up fails. */
  readonly stale: number;
}

/**
 * Finds the owner of an API key. Keys are looked up by their hash and cached for `cacheMs`; equal look-ups at one time are
 * one query. While the database is away, keys that were known shortly before are still accepted, so that clients can
 * reconnect during an outage. A revoked key is dropped from the cache at once.
 */
export class ApiKeyAuth {
  private readonly known = new LRUCache<string, Known>({ max: MAX_KEYS });
  private readonly unknown = new LRUCache<string, number>({ max: MAX_UNKNOWN });
  private readonly lookups = new SingleFlight<ApiKeyRecord | undefined>();
  private readonly now: () => number;
  private forgotten = 0;

  constructor(private readonly options: ApiKeyOptions) {
    this.now = options.now ?? (() => performance.now());
  }

  /** Rises when a key is dropped from the cache. An authentication that began before has to be repeated. */
  get revision(): number {
    return this.forgotten;
  }

  /**
   * @throws TaskwireError MISSING_API_KEY, INVALID_API_KEY, INACTIVE_API_KEY, AUTHENTICATION_FAILED (two places
   * disagree), DATABASE_UNAVAILABLE
   */
  async authenticate(credentials: Credentials): Promise<Identity> {
    const credential = credentialOf(credentials);
    if (!('key' in credential)) {
      throw new TaskwireError('INVALID_TOKEN');
    }
    return this.authenticateKey(credential.key);
  }

  /** @throws TaskwireError INVALID_API_KEY, INACTIVE_API_KEY, DATABASE_UNAVAILABLE */
  async authenticateKey(key: string): Promise<Identity> {
    const hash = hashApiKey(key);
    const record = this.remembered(hash) ?? (await this.lookup(hash));
    if (record === undefined) {
      throw new TaskwireError('INVALID_API_KEY');
    }
    if (!record.active) {
      throw new TaskwireError('INACTIVE_API_KEY');
    }
    const { key_id: keyId, owner, role, rate_limit: rateLimit, scopes, expires_at } = record;
    if (expires_at !== null && Date.parse(expires_at) <= Date.now()) {
      throw new TaskwireError('INVALID_API_KEY', { message: 'The API key has expired' });
    }
    this.options.onUse?.(keyId);
    return { keyId, owner, role, rateLimit, ...(scopes === null ? {} : { scopes }) };
  }

  /** Drops a key from the cache, since it was revoked or changed: its next use is looked up. */
  forget(keyId: string): void {
    // Look-ups that are under way may have read the key before it changed: they see that this has risen, and repeat.
    this.forgotten += 1;
    for (const [hash, { record }] of this.known.entries()) {
      if (record.key_id === keyId) {
        this.known.delete(hash);
      }
    }
  }

  /** Has every key looked up at its next use: news of some changes may have been lost. */
  expireAll(): void {
    this.forgotten += 1;
    const now = this.now();
    for (const entry of this.known.values()) {
      entry.fresh = Math.min(entry.fresh, now);
    }
  }

  private remembered(hash: string): ApiKeyRecord | undefined {
    const known = this.known.get(hash);
    if (known !== undefined && this.now() < known.fresh) {
      return known.record;
    }
    const until = this.unknown.get(hash);
    if (until !== undefined && this.now() < until) {
      throw new TaskwireError('INVALID_API_KEY');
    }
    return undefined;
  }

  private async lookup(hash: string): Promise<ApiKeyRecord | undefined> {
    for (;;) {
      const before = this.forgotten;
      try {
        const record = await this.lookups.run(`${before} ${hash}`, () => this.options.find(hash));
        if (this.forgotten === before) {
          this.remember(hash, record);
          return record;
        }
      } catch (error) {
        return this.insteadOf(error, hash);
      }
    }
  }

  private remember(hash: string, record: ApiKeyRecord | undefined): void {
    const now = this.now();
    if (record === undefined) {
      this.known.delete(hash);
      this.unknown.set(hash, now + UNKNOWN_MS);
    } else {
      const fresh = now + this.options.cacheMs;
      this.known.set(hash, { record, fresh, stale: fresh + (this.options.graceMs ?? GRACE_MS) });
    }
  }

  /** The cached record when a look-up has failed; throws the error when there is none. */
  private insteadOf(error: unknown, hash: string): ApiKeyRecord {
    const known = this.known.get(hash);
    const now = this.now();
    if (known === undefined || now >= known.stale) {
      throw error;
    }
    known.fresh = Math.min(now + RETRY_MS, known.stale);
    return known.record;
  }
}
