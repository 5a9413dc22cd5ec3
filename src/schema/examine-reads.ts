import type { Knex } from 'knex';

/** What is read from a replica. */
const TABLES = ['event_streams', 'jobs', 'task_events', 'tasks'];
/** So many streams are compared. */
const COMPARED = 100;

/** A stream with its epoch, which no other cluster has. */
export interface StreamEpoch {
  readonly user_id: string;
  readonly epoch: string;
}

/** Whether pages, snapshots and replays can be read from a server. */
export interface ReadFacts {
  readonly missing: readonly string[];
  /** Tables that this user may not read. */
  readonly refused: readonly string[];
  /** Whether it has a stream that the primary has; true when there is none to compare. */
  readonly related: boolean;
}

/** Some streams of a primary. */
export async function someStreams(db: Knex): Promise<StreamEpoch[]> {
  const { rows } = await db.raw(`SELECT user_id, epoch FROM event_streams ORDER BY user_id LIMIT ${COMPARED}`);
  return rows as StreamEpoch[];
}

/** @param streams some of the primary's */
export async function examineReads(db: Knex, streams: readonly StreamEpoch[]): Promise<ReadFacts> {
  const { rows }: { rows: Array<{ missing: string[]; refused: string[] }> } = await db.raw(
    `SELECT ARRAY(SELECT name FROM unnest(?::text[]) AS t (name) WHERE to_regclass(name) IS NULL) AS missing,
       ARRAY(SELECT name FROM unnest(?::text[]) AS t (name)
         WHERE to_regclass(name) IS NOT NULL AND NOT has_table_privilege(to_regclass(name), 'SELECT')) AS refused`,
    [TABLES, TABLES],
  );
  const { missing, refused } = rows[0]!;
  const comparable = streams.length > 0 && missing.length === 0 && refused.length === 0;
  return { missing, refused, related: !comparable || (await hasOneOf(db, streams)) };
}

async function hasOneOf(db: Knex, streams: readonly StreamEpoch[]): Promise<boolean> {
  const { rows } = await db.raw(
    `SELECT EXISTS (
       SELECT FROM event_streams JOIN unnest(?::text[], ?::text[]) AS t (user_id, epoch) USING (user_id, epoch)
     ) AS found`,
    [streams.map(({ user_id }) => user_id), streams.map(({ epoch }) => epoch)],
  );
  return (rows as Array<{ found: boolean }>)[0]!.found;
}
