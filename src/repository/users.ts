import type { Knex } from 'knex';
import { query } from './query.js';

/** Makes sure that a user and its stream exist. */
export async function ensureUser(db: Knex, userId: string): Promise<void> {
  await query(
    db,
    `WITH made AS (INSERT INTO users (user_id) VALUES (?) ON CONFLICT DO NOTHING RETURNING user_id)
     INSERT INTO event_streams (user_id, epoch) SELECT user_id, substr(replace(gen_random_uuid()::text, '-', ''), 1, 12) FROM made ON CONFLICT DO NOTHING`,
    [userId],
  );
}
