import { NEW_EPOCH } from '../repository/users.js';

/*
 * What another program writes has bounds too, where clients would suffer: a value that no client takes, an id that no room
 * can be named for. Its transaction fails with a word that says why; nothing is lost without one. Only what is told is looked
 * at: a row that has been so large for long may be changed and deleted.
 */

/** Bytes that an event may say. All that REST takes for one task is less. */
const MAX_EVENT_BYTES = 1_000_000;

/** Functions that fail a transaction whose events nobody could take, and an id that no event can tell of: why, or null. */
export const CHECKS = [
  `CREATE FUNCTION taskwire_unheard(task_id bigint, job_id numeric) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT CASE WHEN task_id NOT BETWEEN 1 AND 9007199254740991 THEN 'task ' || task_id
    WHEN job_id = 'NaN' THEN 'job ' || job_id END
$$`,
  `CREATE FUNCTION taskwire_check_told(largest bigint[], unheard text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  IF largest[1] > coalesce(nullif(current_setting('taskwire.max_event_bytes', true), '')::bigint, ${MAX_EVENT_BYTES}) THEN
    RAISE EXCEPTION USING ERRCODE = 'program_limit_exceeded',
      MESSAGE = format('taskwire: the event of task %s would have %s bytes', largest[2], largest[1]),
      HINT = 'Keep large values elsewhere. SET taskwire.max_event_bytes allows more than ${MAX_EVENT_BYTES}, which not every '
        'client takes; SET LOCAL taskwire.capture = ''off'' tells nobody.';
  ELSIF unheard IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'check_violation',
      MESSAGE = format('taskwire: nobody can hear of %s', unheard),
      HINT = 'Job ids are unsigned integers, task ids are integers from 1 to 9007199254740991.';
  END IF;
END $$`,
] as const;

/*
 * A user that appears by SQL has a stream. The characters are those of protocol/rooms.ts: a user of another name has no room.
 * Without a backslash, which some sessions read in another way, and with the question mark by its number, as knex would take
 * it for a binding.
 */
export const MAKE_STREAM = `CREATE FUNCTION taskwire_make_stream() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER AS $$
BEGIN
  IF NEW.user_id !~ ('^[]!#-;=' || chr(63) || '@-[^-~]{1,128}$') THEN
    RAISE EXCEPTION USING ERRCODE = 'check_violation',
      MESSAGE = format('taskwire: %L is no user id', NEW.user_id),
      HINT = 'It wants 1 to 128 printable ASCII characters without space, double quotes, backslash, < and >.';
  END IF;
  INSERT INTO event_streams (user_id, epoch) VALUES (NEW.user_id, ${NEW_EPOCH}) ON CONFLICT DO NOTHING;
  RETURN NULL;
END $$`;

/*
 * TRUNCATE tells of no rows. Instead every stream gets a new epoch: whatever position somebody has is answered with a
 * snapshot, and connected clients begin anew at once.
 */
export const TELL_TRUNCATION = `CREATE FUNCTION taskwire_tell_truncation() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  IF current_setting('taskwire.capture', true) IS DISTINCT FROM 'off' THEN
    PERFORM 1 FROM event_streams ORDER BY user_id FOR NO KEY UPDATE;
    UPDATE event_streams SET epoch = ${NEW_EPOCH};
    IF current_setting('taskwire.notify', true) IS DISTINCT FROM 'off' THEN
      PERFORM pg_notify(taskwire_channel(), '');
    END IF;
  END IF;
  RETURN NULL;
END $$`;
