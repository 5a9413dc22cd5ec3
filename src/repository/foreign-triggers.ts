import { type Database, preparedQuery } from '../database/query.js';

/*
 * A BEFORE trigger of the operator may change the row that a write makes, or keep the write out. Where there is one, the row is not
 * what was asked for, so that an update is made with the old row at hand (see observed-update.ts), and the items of a batch one by
 * one.
 *
 * Each statement that has to know asks for itself, and for nothing: the function that it asks is called immutable, so that it is
 * evaluated while the statement is planned and stands in the plan as a constant. Postgres makes the plan of a prepared statement
 * anew when triggers of a table of it have changed, after it has locked the table, so that none can change until the commit. (A
 * look into the catalog by the statement itself would take 6 % of the processor time of an update.)
 */

/** What a trigger is for, as `pg_trigger.tgtype` has it: of rows (1), before (2) an insertion (4) or an update (16). */
const KINDS = { insert: 7, update: 19 } as const;
export type Write = keyof typeof KINDS;

/** SQL of the condition that no trigger has a hand in what a write makes of a row. */
export const rowsAreOurs = (write: Write): string => `taskwire_rows_are_ours(${KINDS[write]})`;

/** Whether a write that has written nothing may have met that condition. */
export async function areRowsChanged(db: Database, write: Write): Promise<boolean> {
  const [row] = await preparedQuery<{ changed: boolean }>(db, 'SELECT taskwire_has_triggers(?::integer) AS changed', [
    KINDS[write],
  ]);
  return row?.changed === true;
}

/** The step of the schema. */
export const FOREIGN_TRIGGERS_STEP = {
  up: [
    // It is volatile, and so looks at the catalog as it is once the table is locked; planning itself looks at it as it was before.
    `CREATE FUNCTION taskwire_has_triggers(kind integer) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  RETURN EXISTS (
    SELECT FROM pg_trigger WHERE tgrelid = 'tasks'::regclass AND tgtype & kind = kind AND tgenabled <> 'D'
  );
END $$`,
    `CREATE FUNCTION taskwire_rows_are_ours(kind integer) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
  RETURN NOT taskwire_has_triggers(kind);
END $$`,
    `DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['has_triggers', 'rows_are_ours'] LOOP
    EXECUTE format('ALTER FUNCTION taskwire_%s(integer) SET search_path = pg_catalog, %I, pg_temp', name, current_schema());
  END LOOP;
END $$`,
  ],
  down: ['DROP FUNCTION taskwire_rows_are_ours(integer), taskwire_has_triggers(integer)'],
} as const;
