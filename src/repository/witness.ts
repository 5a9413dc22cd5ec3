import type { Knex } from 'knex';
import { preparedQuery } from '../database/query.js';
import { STARTED_AT } from '../database/server-finder.js';
import type { Position } from '../protocol/messages.js';
import type { Witness } from './log.js';

/** Text of a time to the microsecond, whatever the settings of the session. */
const exact = (time: string): string => `to_char(${time} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')`;

/** When the event with a number was logged; null when the log does not have it (any more). */
const eventAt = (userId: string, seq: string): string =>
  `(SELECT ${exact('e.created_at')} FROM task_events e WHERE e.user_id = ${userId} AND e.seq = ${seq} LIMIT 1)`;

/**
 * SQL of a `Witness` for the head of stream `s`, selected by the statement that makes the answer. The snapshot of a
 * statement is older than what its functions say: an answer of a server that is still in recovery is of that time too.
 */
export const witness = (s: string): string =>
  `json_build_object('standby', pg_is_in_recovery(), 'started', ${STARTED_AT},
    'event', ${eventAt(`${s}.user_id`, `${s}.seq`)}) AS witness`;

/** SQL of a `Witness` for an answer without a stream. */
export const WITNESS_ALONE = `SELECT json_build_object('standby', pg_is_in_recovery(), 'started', ${STARTED_AT},
  'event', NULL) AS witness`;

/** What an answer shows of a stream, and of the server that gave it. */
export interface Shown extends Position {
  readonly userId: string;
  /** Whether it says that nothing comes after `seq`. */
  readonly complete: boolean;
  readonly witness: Witness;
}

/** What the primary says about it, asked later. */
export interface Truth {
  readonly started: string;
  /** Undefined when there is no such stream. */
  readonly head: Position | undefined;
  /** When its own event with this number was logged. */
  readonly event: string | null;
}

export async function truthOf(primary: Knex, { userId, seq }: Pick<Shown, 'userId' | 'seq'>): Promise<Truth> {
  const [row] = await preparedQuery<{
    started: string;
    seq: string | null;
    epoch: string | null;
    event: string | null;
  }>(
    primary,
    `SELECT ${STARTED_AT} AS started, s.seq, s.epoch, ${eventAt('asked.user_id', 'asked.seq')} AS event
     FROM (SELECT ?::text AS user_id, ?::bigint AS seq) asked LEFT JOIN event_streams s ON s.user_id = asked.user_id`,
    [userId, seq],
  );
  const { started, seq: head, epoch, event } = row!;
  return { started, head: epoch === null ? undefined : { seq: Number(head), epoch }, event };
}

/**
 * What an answer is worth. `old`: it does not show what the primary has, as happens to any replica; one that is ahead by a
 * commit that the primary has not confirmed counts as such.
 */
export type Worth = 'good' | 'old' | 'other epochs' | 'diverged';

/** Compares an answer of a replica, or of the primary itself, with what the primary says. */
export function judge({ epoch, seq, complete, witness }: Shown, truth: Truth): Worth {
  const { head } = truth;
  if (head === undefined) {
    return 'old';
  }
  if (head.epoch !== epoch) {
    return 'other epochs';
  }
  if (witness.event !== truth.event) {
    // Two events under one number. Without one of them: it is not committed here yet, or trimmed at one of the two.
    return witness.event !== null && truth.event !== null ? 'diverged' : 'old';
  }
  return head.seq === seq || (head.seq > seq && !complete) ? 'good' : 'old';
}
