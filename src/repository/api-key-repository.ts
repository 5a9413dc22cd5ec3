import { createHash, randomBytes } from 'node:crypto';
import type { Knex } from 'knex';
import { z } from 'zod';
import { newApiKey } from '../protocol/api-key-form.js';
import { ROLES, type Role } from '../protocol/tasks.js';
import { preparedQuery, query } from './query.js';
import { parseInput, userIdInput } from './task-input.js';
import { isoText } from './task-json.js';
import { ensureUser } from './users.js';

export interface ApiKeyRecord {
  readonly keyId: string;
  /** The first characters of the key, for people who look for it in a list. */
  readonly prefix: string;
  readonly owner: string;
  readonly role: Role;
  readonly name: string | null;
  /** Requests per minute. */
  readonly rateLimit: number;
  readonly active: boolean;
  readonly createdAt: string;
  readonly lastUsedAt: string | null;
}

/** Requests per minute of a key that is made without a limit of its own. */
export const DEFAULT_RATE_LIMIT = 600;

const keyInput = z.object({
  owner: userIdInput,
  role: z.enum(ROLES as [Role, ...Role[]]).default('user'),
  rateLimit: z.number().int().positive().max(2_147_483_647).default(DEFAULT_RATE_LIMIT),
  name: z.string().max(128).optional(),
});

const COLUMNS = `key_id AS "keyId", prefix, name, owner, role, rate_limit AS "rateLimit", active,
  ${isoText('created_at')} AS "createdAt", ${isoText('last_used_at')} AS "lastUsedAt"`;

/** What the database keeps instead of a key: its SHA-256 in hex. */
export function hashApiKey(key: string): string {
  return createHash('sha256').update(key).digest('hex');
}

/** API keys. A key itself is known only to whoever created it; here lie its hash and what it stands for. */
export class ApiKeyRepository {
  constructor(private readonly db: Knex) {}

  /**
   * Makes a key. It is returned this once and cannot be read again.
   * @throws TaskwireError INVALID_REQUEST, DATABASE_UNAVAILABLE
   */
  async create(input: z.input<typeof keyInput>): Promise<{ key: string; record: ApiKeyRecord }> {
    const { owner, role, rateLimit, name } = parseInput(keyInput, input);
    await ensureUser(this.db, owner);
    const key = newApiKey();
    const [record] = await query<ApiKeyRecord>(
      this.db,
      `INSERT INTO api_keys (key_id, key_hash, prefix, name, owner, role, rate_limit) VALUES (?, ?, ?, ?, ?, ?, ?)
       RETURNING ${COLUMNS}`,
      [randomBytes(8).toString('hex'), hashApiKey(key), key.slice(0, 7), name ?? null, owner, role, rateLimit],
    );
    return { key, record: record! };
  }

  /** @returns undefined when no key has this hash. */
  async findByHash(hash: string): Promise<ApiKeyRecord | undefined> {
    const [record] = await preparedQuery<ApiKeyRecord>(this.db, `SELECT ${COLUMNS} FROM api_keys WHERE key_hash = ?`, [
      hash,
    ]);
    return record;
  }

  /** All keys, oldest first. */
  list(): Promise<ApiKeyRecord[]> {
    return query(this.db, `SELECT ${COLUMNS} FROM api_keys ORDER BY created_at, key_id`, []);
  }

  async count(): Promise<number> {
    const [row] = await query<{ count: string }>(this.db, 'SELECT count(*) AS count FROM api_keys', []);
    return Number(row!.count);
  }

  /**
   * Ends a key for good.
   * @returns whether there is such a key
   */
  async disable(keyId: string): Promise<boolean> {
    const rows = await query(this.db, 'UPDATE api_keys SET active = false WHERE key_id = ? RETURNING key_id', [keyId]);
    return rows.length > 0;
  }

  /** Which of these keys are active. */
  async active(keyIds: readonly string[]): Promise<Set<string>> {
    const rows = await query<{ key_id: string }>(
      this.db,
      'SELECT key_id FROM api_keys WHERE key_id = ANY(?::text[]) AND active',
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
      `UPDATE api_keys SET last_used_at = greatest(last_used_at, used.at)
       FROM unnest(?::text[], ?::timestamptz[]) AS used (key_id, at) WHERE api_keys.key_id = used.key_id`,
      [sorted.map(([keyId]) => keyId), sorted.map(([, date]) => date.toISOString())],
    );
  }
}
