import type { Knex } from 'knex';
import { EventRetention } from '../../src/repository/event-retention.js';

const HOURS = 72;
const TURN = `UPDATE leases SET until = now() WHERE name = 'trim'`;

/** Closes the table that events are written to, as if its time were over. */
export async function closeTables(db: Knex): Promise<void> {
  await db.raw(TURN);
  await db.raw(`UPDATE event_tables SET opened_at = now() - interval '13 hours' WHERE closed_at IS NULL`);
  await new EventRetention(db).trim(HOURS, 0);
}

/** Makes the closed tables as old as they have to be to be dropped, all but the last `keep` of them. */
export async function expireTables(db: Knex, keep = 0): Promise<void> {
  await db.raw(
    `UPDATE event_tables SET closed_at = now() - interval '73 hours'
     WHERE closed_at IS NOT NULL AND id NOT IN (
       SELECT id FROM event_tables WHERE closed_at IS NOT NULL ORDER BY id DESC LIMIT ?
     )`,
    [keep],
  );
}

/** Drops the tables that have expired. @returns how many */
export async function dropExpired(db: Knex): Promise<number> {
  await db.raw(TURN);
  return new EventRetention(db).trim(HOURS, 0);
}
