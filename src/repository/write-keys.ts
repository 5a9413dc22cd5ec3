import { hash } from 'node:crypto';
import { z } from 'zod';
import { type Database, preparedQuery, query } from '../database/query.js';
import { parseInput } from './task-input.js';

/** Names a write, so that it is made once however often it is asked for. Kept for 24 hours. */
export interface WriteKey {
  readonly key: string;
  /** What is asked for: another write with the same key is refused. */
  readonly fingerprint: string;
}

/** A write that was made before, by its key. */
export interface KeptWrite extends WriteKey {
  readonly task_id: string;
  readonly job_id: string;
  readonly user_id: string;
  readonly seq: string;
  readonly epoch: string;
}

/** How long a key is kept at least, in hours. */
const KEEP_HOURS = 24;
/** Keys removed in one statement. */
const CLEAN_BATCH = 1_000;

const keyInput = z.string().min(1, 'wants 1 to 1,024 characters').max(1_024, 'wants 1 to 1,024 characters');

const digest = (text: string): string => hash('sha256', text, 'base64url');

/**
 * @param key the caller's, of any form
 * @param write what is asked for
 * @throws TaskwireError INVALID_REQUEST
 */
export function writeKeyOf(key: string, write: unknown): WriteKey {
  const given = parseInput(keyInput, key, 'idempotency_key');
  return { key: digest(given), fingerprint: digest(JSON.stringify(write)) };
}

/** Finds which of some keys were used before. @returns their writes, by key */
export async function keptWrites(db: Database, keys: readonly string[]): Promise<Map<string, KeptWrite>> {
  const rows = await preparedQuery<KeptWrite>(
    db,
    `SELECT key, fingerprint, task_id::text AS task_id, job_id::text AS job_id, user_id, seq::text AS seq, epoch
     FROM write_keys WHERE key = ANY(?::text[])`,
    [keys],
  );
  return new Map(rows.map((row) => [row.key, row]));
}

/** Whether a statement failed because another write with its key was committed first. It has changed nothing. */
export function isKeyTaken(error: unknown): boolean {
  const { code, table } = error as { code?: unknown; table?: unknown };
  return code === '23505' && table === 'write_keys';
}

/**
 * Removes keys that are older than a day.
 * @returns how many
 */
export async function cleanWriteKeys(db: Database): Promise<number> {
  for (let removed = 0; ; ) {
    const rows = await query(
      db,
      `DELETE FROM write_keys WHERE key IN (
         SELECT key FROM write_keys WHERE created_at < now() - ? * interval '1 hour' ORDER BY created_at LIMIT ?
         FOR UPDATE SKIP LOCKED
       ) RETURNING 1`,
      [KEEP_HOURS, CLEAN_BATCH],
    );
    removed += rows.length;
    if (rows.length < CLEAN_BATCH) {
      return removed;
    }
  }
}
