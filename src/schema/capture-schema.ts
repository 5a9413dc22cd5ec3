import { NEW_EPOCH } from '../repository/users.js';
import { CHECKS, MAKE_STREAM, TELL_TRUNCATION } from './capture-bounds.js';

/*
 * Capture: every writer of `tasks` is heard, whoever it is.
 *
 * A statement of the repository logs its own event and says so in the row: it sets `write_mark` to the id of its
 * transaction, counted up with each such write. A row that was written without a new mark was written by somebody else
 * (psql, another program). For it, a trigger notes in `task_changes` what the row was when the transaction first
 * touched it. When the transaction commits, a deferred constraint trigger compares each noted task with what it is by
 * then, and logs the difference as one event.
 *
 * So a task that is updated three times makes one event, one that is inserted and deleted none, and a change that is
 * rolled back, to a savepoint or altogether, takes its note with it. The counters of the streams are locked in order of
 * `user_id`, and only at the commit: another program's long transaction holds up nobody's stream.
 *
 * The functions run with the rights of who migrated the database, with a search path and settings of their own: a program
 * that has rights on `tasks` alone is heard, and its settings change nothing about what an event says.
 */

const ISO = `'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'`;

/** A task without its ids, as reads show it: what TASK_CREATED says. */
const ROW = `CREATE FUNCTION taskwire_row(task tasks) RETURNS jsonb LANGUAGE sql STABLE AS $$
  SELECT jsonb_build_object(
    'task_number', task.task_number, 'task_definition_id', task.task_definition_id, 'is_imua', task.is_imua,
    'task_status', task.task_status, 'task_error', task.task_error, 'task_opx_cost', task.task_opx_cost,
    'execution_timestamp', to_char(task.execution_timestamp AT TIME ZONE 'UTC', ${ISO}),
    'execution_tx_hash', task.execution_tx_hash, 'proof_of_task', task.proof_of_task,
    'task_performer_id', task.task_performer_id, 'task_attester_ids', task.task_attester_ids,
    'tp_signature', task.tp_signature, 'ta_signature', task.ta_signature,
    'task_submission_tx_hash', task.task_submission_tx_hash, 'is_successful', task.is_successful,
    'is_accepted', task.is_successful, 'tx_url', task.tx_url, 'converted_arguments', task.converted_arguments,
    'created_at', to_char(task.created_at AT TIME ZONE 'UTC', ${ISO}))
$$`;

/** Where a listener hears of captured events; each schema has a channel of its own. */
const CHANNEL = `CREATE FUNCTION taskwire_channel() RETURNS text LANGUAGE sql STABLE AS $$
  SELECT 'taskwire_' || 'tasks'::regclass::oid
$$`;

/*
 * The first note of a transaction carries the deferred trigger (`starts`), so that a bulk load runs it once. The setting
 * that says whether there is one goes with the transaction, and with its savepoints.
 */
const NOTE = `CREATE FUNCTION taskwire_note_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
  this_tx bigint := txid_current();
  is_first boolean := current_setting('taskwire.noted', true) IS DISTINCT FROM this_tx::text;
BEGIN
  IF current_setting('taskwire.capture', true) = 'off' THEN
    RETURN NULL;
  END IF;
  IF is_first THEN
    PERFORM set_config('taskwire.noted', this_tx::text, true);
  END IF;
  IF TG_OP = 'INSERT' THEN
    INSERT INTO task_changes (tx, task_id, starts) VALUES (this_tx, NEW.task_id, is_first) ON CONFLICT DO NOTHING;
  ELSIF TG_OP = 'UPDATE' AND NEW.task_id <> OLD.task_id THEN
    INSERT INTO task_changes (tx, task_id, job_id, user_id, old, starts)
    VALUES (this_tx, OLD.task_id, OLD.job_id, OLD.user_id, taskwire_row(OLD), is_first),
      (this_tx, NEW.task_id, NULL, NULL, NULL, false)
    ON CONFLICT DO NOTHING;
  ELSE
    INSERT INTO task_changes (tx, task_id, job_id, user_id, old, starts)
    VALUES (this_tx, OLD.task_id, OLD.job_id, OLD.user_id, taskwire_row(OLD), is_first) ON CONFLICT DO NOTHING;
  END IF;
  RETURN NULL;
END $$`;

/** What an event says of a task that stayed where it was; without a type when nothing has changed. */
const DIFFERENCE = `CREATE FUNCTION taskwire_difference(was jsonb, is_now jsonb, OUT type text, OUT said jsonb)
LANGUAGE plpgsql STABLE AS $$
BEGIN
  said := (SELECT jsonb_object_agg(f.key, f.value) FROM jsonb_each(is_now) f WHERE f.value IS DISTINCT FROM was -> f.key);
  IF said IS NULL THEN
    RETURN;
  ELSIF said - 'task_opx_cost' = '{}' THEN
    type := 'TASK_FEE_UPDATED';
    said := said || jsonb_build_object('old_fee', was -> 'task_opx_cost', 'new_fee', is_now -> 'task_opx_cost');
  ELSIF said -> 'task_status' IS NOT NULL AND said - ARRAY['task_status', 'task_number', 'task_submission_tx_hash'] = '{}' THEN
    type := 'TASK_STATUS_CHANGED';
    said := said || jsonb_build_object('old_status', was -> 'task_status', 'new_status', is_now -> 'task_status');
  ELSE
    type := 'TASK_UPDATED';
  END IF;
END $$`;

/*
 * Most transactions of other programs change one task, which stays in its job. That takes a third less than the way that
 * serves any number of them. @returns whether it was so
 */
const TELL_ONE = `CREATE FUNCTION taskwire_tell_one(this_tx bigint) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  change record;
  task record;
  event record;
  place bigint;
BEGIN
  IF EXISTS (SELECT FROM task_changes c WHERE c.tx = this_tx OFFSET 1) THEN
    RETURN false;
  END IF;
  SELECT c.task_id, c.job_id, c.user_id, c.old INTO change FROM task_changes c WHERE c.tx = this_tx;
  SELECT t.job_id, t.user_id, taskwire_row(t) AS said INTO task FROM tasks t WHERE t.task_id = change.task_id;
  IF change.old IS NULL OR task.said IS NULL OR task.job_id <> change.job_id OR task.user_id <> change.user_id THEN
    RETURN false;
  END IF;
  event := taskwire_difference(change.old, task.said);
  IF event.type IS NOT NULL THEN
    PERFORM taskwire_check_told(
      ARRAY[octet_length(event.said::text), change.task_id], taskwire_unheard(change.task_id, task.job_id));
    UPDATE event_streams SET seq = seq + 1 WHERE user_id = task.user_id RETURNING seq INTO place;
    IF place IS NULL THEN
      RETURN false;
    END IF;
    INSERT INTO task_events (user_id, seq, job_id, task_id, type, changes, created_at, published)
    VALUES (task.user_id, place, task.job_id, change.task_id, event.type, event.said, clock_timestamp(), false);
    IF current_setting('taskwire.notify', true) IS DISTINCT FROM 'off' THEN
      PERFORM pg_notify(taskwire_channel(), task.user_id);
    END IF;
  END IF;
  DELETE FROM task_changes c WHERE c.tx = this_tx;
  RETURN true;
END $$`;

/*
 * Counters first, in their order, by a statement of its own: the next one sees what was committed while it waited.
 * A task that has moved to another job, or to another user, is deleted there and created here.
 */
const TELL = `CREATE FUNCTION taskwire_tell_changes() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
  this_tx bigint := txid_current();
  owners text[];
  held bigint;
  told text[];
  largest bigint[];
  unheard text;
BEGIN
  PERFORM set_config('taskwire.noted', '', true);
  IF taskwire_tell_one(this_tx) THEN
    RETURN;
  END IF;
  owners := ARRAY(
    SELECT c.user_id FROM task_changes c WHERE c.tx = this_tx AND c.user_id IS NOT NULL
    UNION
    SELECT t.user_id FROM task_changes c, LATERAL (SELECT user_id FROM tasks WHERE task_id = c.task_id OFFSET 0) t
    WHERE c.tx = this_tx
  );
  PERFORM 1 FROM event_streams s WHERE s.user_id = ANY (owners) ORDER BY s.user_id FOR NO KEY UPDATE;
  GET DIAGNOSTICS held = ROW_COUNT;
  IF held < cardinality(owners) THEN
    INSERT INTO event_streams (user_id, epoch)
    SELECT u, ${NEW_EPOCH} FROM unnest(owners) u ORDER BY u
    ON CONFLICT DO NOTHING;
  END IF;

  WITH change AS MATERIALIZED (
    DELETE FROM task_changes c WHERE c.tx = this_tx RETURNING c.n, c.task_id, c.job_id, c.user_id, c.old
  ), said AS MATERIALIZED (
    SELECT c.n, e.part, c.task_id, e.job_id, e.user_id, e.type, e.said
    FROM change c
    LEFT JOIN LATERAL (
      SELECT t.job_id, t.user_id, taskwire_row(t) AS row FROM tasks t WHERE t.task_id = c.task_id OFFSET 0
    ) now ON true
    CROSS JOIN LATERAL (
      SELECT c.old IS NOT NULL AS was_there, now.row IS NOT NULL AS is_there,
        coalesce(now.job_id = c.job_id AND now.user_id = c.user_id, false) AS stayed
    ) fate
    CROSS JOIN LATERAL (
      SELECT 1 AS part, c.job_id, c.user_id, 'TASK_DELETED' AS type,
        jsonb_build_object('old_status', c.old -> 'task_status', 'old_fee', c.old -> 'task_opx_cost') AS said
      WHERE fate.was_there AND NOT fate.stayed
      UNION ALL
      SELECT 2, now.job_id, now.user_id, 'TASK_CREATED', now.row WHERE fate.is_there AND NOT fate.stayed
      UNION ALL
      SELECT 2, now.job_id, now.user_id, changed.type, changed.said
      FROM taskwire_difference(c.old, now.row) changed
      WHERE fate.stayed AND changed.type IS NOT NULL
    ) e
  ), event AS MATERIALIZED (
    SELECT said.*, row_number() OVER (PARTITION BY said.user_id ORDER BY said.n, said.part) AS place,
      count(*) OVER (PARTITION BY said.user_id) AS total
    FROM said
  ), stream AS MATERIALIZED (
    SELECT s.user_id, s.seq, e.total FROM event e, LATERAL (
      SELECT s.user_id, s.seq FROM event_streams s WHERE s.user_id = e.user_id OFFSET 0
    ) s WHERE e.place = 1
  ), raised AS (
    UPDATE event_streams s SET seq = s.seq + stream.total FROM stream WHERE s.user_id = stream.user_id
  ), logged AS (
    INSERT INTO task_events (user_id, seq, job_id, task_id, type, changes, created_at, published)
    SELECT e.user_id, stream.seq + e.place, e.job_id, e.task_id, e.type, e.said, now_at.time, false
    FROM event e JOIN stream ON stream.user_id = e.user_id, (SELECT clock_timestamp() AS time OFFSET 0) now_at
    RETURNING user_id, ARRAY[octet_length(changes::text), task_id] AS size, taskwire_unheard(task_id, job_id) AS unheard
  )
  SELECT array_agg(DISTINCT l.user_id), max(l.size), max(l.unheard) INTO told, largest, unheard FROM logged l;
  PERFORM taskwire_check_told(largest, unheard);

  IF told IS NOT NULL AND current_setting('taskwire.notify', true) IS DISTINCT FROM 'off' THEN
    PERFORM pg_notify(taskwire_channel(), CASE WHEN cardinality(told) > 100 THEN '' ELSE u END)
    FROM unnest(CASE WHEN cardinality(told) > 100 THEN ARRAY[''] ELSE told END) u;
  END IF;
END $$`;

const TELL_AT_COMMIT = `CREATE FUNCTION taskwire_tell_at_commit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
  PERFORM taskwire_tell_changes();
  RETURN NULL;
END $$`;

/** What the functions need of their surroundings, whoever calls them. */
const SETTLE = `DO $$
DECLARE
  path text := format('pg_catalog, %I, pg_temp', current_schema());
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['note_change()', 'tell_changes()', 'tell_at_commit()', 'tell_truncation()', 'make_stream()',
    'channel()'] LOOP
    EXECUTE format('ALTER FUNCTION taskwire_%s SET search_path = %s', name, path);
  END LOOP;
  ALTER FUNCTION taskwire_note_change() SET extra_float_digits = 1;
  ALTER FUNCTION taskwire_tell_changes() SET extra_float_digits = 1;
  -- Each row is looked up by its index, however old the statistics are.
  ALTER FUNCTION taskwire_tell_changes() SET enable_seqscan = off;
  ALTER FUNCTION taskwire_tell_changes() SET enable_bitmapscan = off;
  ALTER FUNCTION taskwire_tell_changes() SET enable_mergejoin = off;
  ALTER FUNCTION taskwire_tell_changes() SET jit = off;
END $$`;

/*
 * Whether a statement has logged nothing: its row has no new mark of this transaction. Every statement of every writer reads
 * these conditions anew, so they are short.
 */
const UNLOGGED = 'NEW.write_mark >> 20 <> txid_current()';
const UNLOGGED_AGAIN = 'NEW.write_mark <= OLD.write_mark AND OLD.write_mark >> 20 = txid_current()';

const trigger = (name: string, operation: string, when: string): string =>
  `CREATE TRIGGER ${name} AFTER ${operation} ON tasks FOR EACH ROW WHEN (${when}) EXECUTE FUNCTION taskwire_note_change()`;

/** The functions, each after those that it uses, by their signatures. */
export const CAPTURE_FUNCTIONS: ReadonlyArray<readonly [signature: string, statement: string]> = [
  ['taskwire_row(tasks)', ROW],
  ['taskwire_channel()', CHANNEL],
  ['taskwire_note_change()', NOTE],
  ['taskwire_difference(jsonb,jsonb)', DIFFERENCE],
  ['taskwire_unheard(bigint,numeric)', CHECKS[0]],
  ['taskwire_check_told(bigint[],text)', CHECKS[1]],
  ['taskwire_tell_one(bigint)', TELL_ONE],
  ['taskwire_tell_changes()', TELL],
  ['taskwire_tell_at_commit()', TELL_AT_COMMIT],
  ['taskwire_tell_truncation()', TELL_TRUNCATION],
  ['taskwire_make_stream()', MAKE_STREAM],
];

/** Gives the functions their surroundings, after they were made. */
export const SETTLE_FUNCTIONS = SETTLE;

/** A trigger by which other writers are heard. `CAPTURE=off` turns off those of `tasks`. */
export interface CaptureTrigger {
  readonly name: string;
  readonly table: 'tasks' | 'task_changes' | 'users';
  readonly statement: string;
}

export const CAPTURE_TRIGGERS: readonly CaptureTrigger[] = [
  {
    name: 'taskwire_tell',
    table: 'task_changes',
    statement: `CREATE CONSTRAINT TRIGGER taskwire_tell AFTER INSERT ON task_changes DEFERRABLE INITIALLY DEFERRED
     FOR EACH ROW WHEN (NEW.starts) EXECUTE FUNCTION taskwire_tell_at_commit()`,
  },
  {
    name: 'taskwire_made',
    table: 'users',
    statement:
      'CREATE TRIGGER taskwire_made AFTER INSERT ON users FOR EACH ROW EXECUTE FUNCTION taskwire_make_stream()',
  },
  { name: 'taskwire_inserted', table: 'tasks', statement: trigger('taskwire_inserted', 'INSERT', UNLOGGED) },
  {
    name: 'taskwire_updated',
    table: 'tasks',
    statement: trigger('taskwire_updated', 'UPDATE', `${UNLOGGED} OR (${UNLOGGED_AGAIN})`),
  },
  {
    name: 'taskwire_deleted',
    table: 'tasks',
    // A deleted row has no new mark; the repository says beforehand which task it deletes.
    statement: trigger(
      'taskwire_deleted',
      'DELETE',
      `current_setting('taskwire.deleting', true) IS DISTINCT FROM OLD.task_id::text`,
    ),
  },
  {
    name: 'taskwire_truncated',
    table: 'tasks',
    statement: `CREATE TRIGGER taskwire_truncated AFTER TRUNCATE ON tasks FOR EACH STATEMENT
     EXECUTE FUNCTION taskwire_tell_truncation()`,
  },
];

/**
 * The step of the schema. Once it is released, a correction is a further step, and what stands above follows it: it is how
 * functions and triggers are made that somebody has dropped.
 */
export const CAPTURE_STEP = {
  up: [
    'ALTER TABLE tasks ADD COLUMN write_mark bigint NOT NULL DEFAULT 0',
    // Whether a publisher was to tell of it: what nobody publishes is found in the log, and that is no repair.
    'ALTER TABLE task_events ADD COLUMN published boolean NOT NULL DEFAULT true',
    // Its rows live within one transaction, so that a crash may forget them.
    `CREATE UNLOGGED TABLE task_changes (
       tx bigint NOT NULL,
       task_id bigint NOT NULL,
       n bigint GENERATED ALWAYS AS IDENTITY,
       job_id numeric(78, 0),
       user_id text,
       old jsonb,
       starts boolean NOT NULL,
       PRIMARY KEY (tx, task_id)
     )`,
    ...CAPTURE_FUNCTIONS.map(([, statement]) => statement),
    SETTLE,
    ...CAPTURE_TRIGGERS.map(({ statement }) => statement),
    `INSERT INTO event_streams (user_id, epoch)
     SELECT user_id, ${NEW_EPOCH} FROM users ON CONFLICT DO NOTHING`,
  ],
  down: [
    ...CAPTURE_TRIGGERS.map(({ name, table }) => `DROP TRIGGER ${name} ON ${table}`),
    'DROP TABLE task_changes',
    'DROP FUNCTION taskwire_note_change(), taskwire_tell_at_commit(), taskwire_tell_changes(), taskwire_make_stream()',
    'DROP FUNCTION taskwire_tell_one(bigint), taskwire_tell_truncation(), taskwire_check_told(bigint[], text)',
    'DROP FUNCTION taskwire_unheard(bigint, numeric), taskwire_difference(jsonb, jsonb)',
    'DROP FUNCTION taskwire_channel(), taskwire_row(tasks)',
    'ALTER TABLE task_events DROP COLUMN published',
    'ALTER TABLE tasks DROP COLUMN write_mark',
  ],
} as const;
