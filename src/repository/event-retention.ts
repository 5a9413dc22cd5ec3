import { randomBytes } from 'node:crypto';
import type { Knex } from 'knex';
import { isDatabaseUnavailable, isLockTimeout } from '../database/database-errors.js';
import { query } from '../database/query.js';
import { TaskwireError } from '../protocol/errors.js';

/** Number of tables into which the log is cut. */
const PARTS = 6;
/** How long nobody looks again, in milliseconds. */
const REST_MS = 45_000;
/** After this time another process may take over from one that has died. */
const TURN = `interval '30 seconds'`;
/** How long a change of tables waits for a lock. Writers that come meanwhile wait behind it, so it is short. */
const LOCK_TIMEOUT = '300ms';

/**
 * Closes the table that events are written to: it becomes a part of the log, and an empty one takes its place. The names
 * change in one short transaction, and nothing is copied or read.
 *
 * The lock waits for all who have written to the table and have not committed; whoever writes afterwards takes its number
 * after theirs. So in every stream all events of a part come before all events of the next one, whatever clocks say, and
 * dropping the oldest part leaves no hole.
 * @param id number of the table, which becomes a part of its name
 */
const closeTable = (id: number): string => `DO $$
DECLARE
  part record;
BEGIN
  PERFORM FROM event_tables WHERE id = ${id} AND closed_at IS NULL FOR UPDATE;
  IF NOT FOUND THEN
    RETURN;
  END IF;
  LOCK TABLE ONLY task_events IN ACCESS EXCLUSIVE MODE;
  ALTER TABLE task_events RENAME TO task_events_${id};
  CREATE TABLE task_events (LIKE task_events_${id} INCLUDING ALL);
  FOR part IN SELECT inhrelid::regclass AS name FROM pg_inherits WHERE inhparent = 'task_events_${id}'::regclass LOOP
    EXECUTE format('ALTER TABLE %s NO INHERIT task_events_${id}', part.name);
    EXECUTE format('ALTER TABLE %s INHERIT task_events', part.name);
  END LOOP;
  ALTER TABLE task_events_${id} INHERIT task_events;
  -- Whoever might use the table may use the new one.
  FOR part IN
    SELECT acl.privilege_type AS right, CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE acl.grantee::regrole::text END AS who
    FROM pg_class, aclexplode(relacl) acl WHERE oid = 'task_events_${id}'::regclass AND acl.grantee <> relowner
  LOOP
    EXECUTE format('GRANT %s ON task_events TO %s', part.right, part.who);
  END LOOP;
  UPDATE event_tables SET closed_at = clock_timestamp() WHERE id = ${id};
  INSERT INTO event_tables DEFAULT VALUES;
END $$`;

/** Keeps the log for some time: it is cut into tables, and whole tables are dropped. */
export class EventRetention {
  constructor(private readonly db: Knex) {}

  /**
   * Drops the tables whose events have all expired, and closes the table that is written to when it is old enough. Events
   * are kept for `hours`, and for up to a sixth of that longer. What it costs does not depend on how many events there are;
   * writers wait for some milliseconds, and for a third of a second at most when somebody holds a table.
   *
   * One process works at a time; the turn of one that dies is over after half a minute.
   * @param hours age from which an event is expired
   * @param restMs how long nobody looks again, in milliseconds (45,000)
   * @returns how many tables were dropped; none, after one look at one row, when it is not this process's turn
   * @throws TaskwireError DATABASE_UNAVAILABLE
   */
  async trim(hours: number, restMs = REST_MS): Promise<number> {
    const holder = randomBytes(8).toString('hex');
    const turn = await query(
      this.db,
      `UPDATE leases SET holder = ?, until = now() + ${TURN} WHERE name = 'trim' AND until <= now() RETURNING 1`,
      [holder],
    );
    if (turn.length === 0) {
      return 0;
    }
    await this.closeWhenDue(hours);
    const dropped = await this.dropExpired(hours);
    await query(
      this.db,
      `UPDATE leases SET until = now() + ? * interval '1 millisecond' WHERE name = 'trim' AND holder = ?`,
      [restMs, holder],
    );
    return dropped;
  }

  private async closeWhenDue(hours: number): Promise<void> {
    const [table] = await query<{ id: number; used: boolean }>(
      this.db,
      `SELECT id, EXISTS (SELECT FROM ONLY task_events) AS used FROM event_tables
       WHERE closed_at IS NULL AND opened_at < now() - ? * interval '1 hour'`,
      [hours / PARTS],
    );
    if (table?.used === true) {
      await this.change((transaction) => transaction.raw(closeTable(table.id)));
    } else if (table !== undefined) {
      await query(this.db, 'UPDATE event_tables SET opened_at = now() WHERE id = ?', [table.id]);
    }
  }

  private async dropExpired(hours: number): Promise<number> {
    const expired = await query<{ id: number }>(
      this.db,
      `SELECT id FROM event_tables WHERE closed_at < now() - ? * interval '1 hour' ORDER BY id`,
      [hours],
    );
    let dropped = 0;
    for (const { id } of expired) {
      const gone = await this.change(async (transaction) => {
        await transaction.raw('DELETE FROM event_tables WHERE id = ?', [id]);
        await transaction.raw(`DROP TABLE IF EXISTS task_events_${id}`);
      });
      if (!gone) {
        // A part that cannot be dropped now keeps those behind it: the log has no holes.
        break;
      }
      dropped += 1;
    }
    return dropped;
  }

  /**
   * Changes tables in one transaction.
   * @returns false when somebody holds a table for too long; the next look tries again
   */
  private async change(work: (transaction: Knex.Transaction) => Promise<unknown>): Promise<boolean> {
    try {
      await this.db.transaction(async (transaction) => {
        await transaction.raw(`SET LOCAL lock_timeout = '${LOCK_TIMEOUT}'`);
        await work(transaction);
      });
      return true;
    } catch (error) {
      if (isLockTimeout(error)) {
        return false;
      }
      throw isDatabaseUnavailable(error) ? new TaskwireError('DATABASE_UNAVAILABLE', { cause: error }) : error;
    }
  }
}
