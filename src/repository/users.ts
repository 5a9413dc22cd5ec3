import type { Knex } from 'knex';
import { query } from '../database/query.js';

/** SQL of a new epoch, another one for every row: a random word of 12 letters and digits. */
export const NEW_EPOCH = `substr(replace(gen_random_uuid()::text, '-', ''), 1, 12)`;

/** Makes sure that a user and its stream exist. */
export async function ensureUser(db: Knex, userId: string): Promise<void> {
  await query(
    db,
    `WITH made AS (INSERT INTO users (user_id) VALUES (?) ON CONFLICT DO NOTHING RETURNING user_id)
     INSERT INTO event_streams (user_id, epoch) SELECT user_id, ${NEW_EPOCH} FROM made ON CONFLICT DO NOTHING`,
    [userId],
  );
}
