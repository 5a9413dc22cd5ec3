import { hash, randomBytes } from 'node:crypto';
import type { Knex } from 'knex';
import { preparedQuery, query } from '../database/query.js';
import { newApiKey } from '../protocol/api-key-form.js';
import { TaskwireError } from '../protocol/errors.js';
import type { Role, Scope } from '../protocol/tasks.js';
import { apiKeyInput, overlapInput, rateLimitInput } from './key-input.js';
import { parseInput } from './task-input.js';
import { isoText } from './task-json.js';
import { ensureUser } from './users.js';

/** A key as lists, the command line and REST show it. Times are ISO 8601 in UTC. */
export interface ApiKeyRecord {
  readonly key_id: string;
  /** The first characters of the key, for people who look for it in a list. */
  readonly prefix: string;
  readonly owner: string;
  readonly role: Role;
  readonly name: string | null;
  /** Requests per minute. */
  readonly rate_limit: number;
  /** What it may do, of what its role may; null: all of that. */
  readonly scopes: readonly Scope[] | null;
  /** False when it was disabled. */
  readonly active: boolean;
  /** When it ends; null: never. */
  readonly expires_at: string | null;
  readonly created_at: string;
  readonly last_used_at: string | null;
}

/** What a key is made of. */
export interface ApiKeyInput {
  /** User id of the owner; a new user is made with its first key. */
  readonly owner: string;
  /** `user` when absent. */
  readonly role?: Role | undefined;
  /** Requests per minute, from 1; 600 when absent. */
  readonly rate_limit?: number | undefined;
  /** A note for people who read the list; up to 128 printable characters. */
  readonly name?: string | undefined;
  /** Some of what the role may do; all of it when absent. */
  readonly scopes?: readonly Scope[] | undefined;
  /** When the key ends: RFC 3339, in the future; never when absent. */
  readonly expires_at?: string | undefined;
}

/** A key that was made. */
export interface CreatedKey {
  /** The key itself: it is returned this once and cannot be read again. */
  readonly key: string;
  readonly record: ApiKeyRecord;
}

const COLUMNS = `key_id, prefix, name, owner, role, rate_limit, scopes, active, ${isoText('expires_at')} AS expires_at,
  ${isoText('created_at')} AS created_at, ${isoText('last_used_at')} AS last_used_at`;

/** What the database keeps of a new key: an id, its hash and its first characters. */
const identityOf = (key: string): [id: string, hash: string, prefix: string] => [
  randomBytes(8).toString('hex'),
  hashApiKey(key),
  key.slice(0, 7),
];

/** SQL: a key is neither disabled nor expired. */
const VALID = '(active AND (expires_at IS NULL OR expires_at > now()))';

/** How long a change of a key that is locked is tried again, in milliseconds. */
const LOCK_PATIENCE_MS = 3_000;

/** What the database keeps instead of a key: its SHA-256 in hex. */
export function hashApiKey(key: string): string {
  return hash('sha256', key, 'hex');
}

/** API keys. A key itself is known only to whoever created it; here lie its hash and what it stands for. */
export class ApiKeyRepository {
  /**
   * @param lookups what is only read is read there: a write may take long, and must not keep keys from being looked up
   */
  constructor(
    private readonly db: Knex,
    private readonly lookups: Knex = db,
  ) {}

  /**
   * Makes a key. It is returned this once and cannot be read again.
   * @throws TaskwireError INVALID_REQUEST, DATABASE_UNAVAILABLE
   */
  async create(input: ApiKeyInput): Promise<CreatedKey> {
    const { owner, role, rate_limit, name, scopes, expires_at } = parseInput(apiKeyInput, input);
    await ensureUser(this.db, owner);
    const key = newApiKey();
    const [record] = await query<ApiKeyRecord>(
      this.db,
      `INSERT INTO api_keys (key_id, key_hash, prefix, name, owner, role, rate_limit, scopes, expires_at)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?::text[], ?::timestamptz) RETURNING ${COLUMNS}`,
      [...identityOf(key), name ?? null, owner, role, rate_limit, scopes ?? null, expires_at ?? null],
    );
    return { key, record: record! };
  }

  /**
   * Replaces a key by a new one that is otherwise the same. Both are valid for `overlapSeconds`, then the old one ends; a key
   * that ends sooner anyway is not prolonged.
   * @param overlapSeconds from 0, up to 30 days
   * @returns undefined when there is no such key, or it is not valid any more
   * @throws TaskwireError INVALID_REQUEST, DATABASE_UNAVAILABLE
   */
  async rotate(keyId: string, overlapSeconds: number): Promise<CreatedKey | undefined> {
    const key = newApiKey();
    const [record] = await this.change<ApiKeyRecord>(
      `WITH old AS (
         UPDATE api_keys SET expires_at = least(expires_at, now() + make_interval(secs => ?))
         WHERE key_id = ? AND ${VALID} RETURNING name, owner, role, rate_limit, scopes
       ), before AS (SELECT expires_at FROM api_keys WHERE key_id = ?)
       INSERT INTO api_keys (key_id, key_hash, prefix, name, owner, role, rate_limit, scopes, expires_at)
       SELECT ?, ?, ?, name, owner, role, rate_limit, scopes, before.expires_at FROM old, before RETURNING ${COLUMNS}`,
      [parseInput(overlapInput, overlapSeconds), keyId, keyId, ...identityOf(key)],
    );
    return record === undefined ? undefined : { key, record };
  }

  /**
   * Changes a key, as a whole or not at all.
   * @param change `rate_limit`: requests per minute, from 1; `active`: false disables it, true makes it valid again unless it has
   * expired. What is absent stays
   * @returns undefined when there is no such key
   * @throws TaskwireError INVALID_REQUEST, DATABASE_UNAVAILABLE
   */
  async alter(
    keyId: string,
    { rate_limit, active }: { readonly rate_limit?: number | undefined; readonly active?: boolean | undefined },
  ): Promise<ApiKeyRecord | undefined> {
    const limit = rate_limit === undefined ? null : parseInput(rateLimitInput, rate_limit);
    const [record] = await this.change<ApiKeyRecord>(
      `UPDATE api_keys SET rate_limit = coalesce(?::integer, rate_limit), active = coalesce(?::boolean, active)
       WHERE key_id = ? RETURNING ${COLUMNS}`,
      [limit, active ?? null, keyId],
    );
    return record;
  }

  /**
   * Changes the limit of a key.
   * @param rateLimit requests per minute, from 1
   * @returns undefined when there is no such key
   * @throws TaskwireError INVALID_REQUEST, DATABASE_UNAVAILABLE
   */
  limit(keyId: string, rateLimit: number): Promise<ApiKeyRecord | undefined> {
    return this.alter(keyId, { rate_limit: rateLimit });
  }

  /**
   * Makes a disabled key valid again; one that has expired stays so.
   * @returns undefined when there is no such key
   */
  enable(keyId: string): Promise<ApiKeyRecord | undefined> {
    return this.alter(keyId, { active: true });
  }

  /**
   * Disables all keys of an owner.
   * @returns the ids of those that were active
   */
  async disableByOwner(owner: string): Promise<string[]> {
    const rows = await this.change<{ key_id: string }>(
      'UPDATE api_keys SET active = false WHERE owner = ? AND active RETURNING key_id',
      [owner],
    );
    return rows.map(({ key_id }) => key_id);
  }

  /** @returns undefined when no key has this hash. */
  async findByHash(hash: string): Promise<ApiKeyRecord | undefined> {
    const [record] = await preparedQuery<ApiKeyRecord>(
      this.lookups,
      `SELECT ${COLUMNS} FROM api_keys WHERE key_hash = ?`,
      [hash],
    );
    return record;
  }

  /** All keys, oldest first. */
  list(): Promise<ApiKeyRecord[]> {
    return query(this.lookups, `SELECT ${COLUMNS} FROM api_keys ORDER BY created_at, key_id`, []);
  }

  async count(): Promise<number> {
    const [row] = await query<{ count: string }>(this.lookups, 'SELECT count(*) AS count FROM api_keys', []);
    return Number(row!.count);
  }

  /**
   * Disables a key.
   * @returns whether there is such a key
   */
  async disable(keyId: string): Promise<boolean> {
    return (await this.alter(keyId, { active: false })) !== undefined;
  }

  /** Which of these keys are valid: neither disabled nor expired. */
  async active(keyIds: readonly string[]): Promise<Set<string>> {
    const rows = await query<{ key_id: string }>(
      this.lookups,
      `SELECT key_id FROM api_keys WHERE key_id = ANY(?::text[]) AND ${VALID}`,
      [keyIds],
    );
    return new Set(rows.map(({ key_id }) => key_id));
  }

  /** Notes when keys were used last; an earlier time never replaces a later one. */
  async touch(uses: ReadonlyMap<string, Date>): Promise<void> {
    // Workers that note the same keys at the same time lock them in the same order.
    const sorted = [...uses].sort(([one], [other]) => (one < other ? -1 : 1));
    await query(
      this.db,
      // Not worth waiting for a synchronous standby: while that is away, the keys would stay locked.
      `UPDATE api_keys SET last_used_at = greatest(last_used_at, used.at)
       FROM (SELECT set_config('synchronous_commit', 'local', true)) AS quick,
         unnest(?::text[], ?::timestamptz[]) AS used (key_id, at) WHERE api_keys.key_id = used.key_id`,
      [sorted.map(([keyId]) => keyId), sorted.map(([, date]) => date.toISOString())],
    );
  }

  /** Changes a key, which others may have locked for a moment: those that note its use. */
  private async change<Row>(sql: string, bindings: readonly unknown[]): Promise<Row[]> {
    for (const end = performance.now() + LOCK_PATIENCE_MS; ; ) {
      try {
        return await query<Row>(this.db, sql, bindings);
      } catch (error) {
        if (!(error instanceof TaskwireError && error.code === 'STREAM_BUSY') || performance.now() > end) {
          throw error;
        }
      }
    }
  }
}
