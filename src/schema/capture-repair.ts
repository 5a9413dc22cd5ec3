import type { Knex } from 'knex';
import { FOREIGN_TRIGGERS_STEP } from '../repository/foreign-triggers.js';
import { CAPTURE_FUNCTIONS, CAPTURE_TRIGGERS, type CaptureTrigger, SETTLE_FUNCTIONS } from './capture-schema.js';

const [hasTriggers, rowsAreOurs, settle] = FOREIGN_TRIGGERS_STEP.up;

/** All that writes and capture call, in the order in which they are made. */
const FUNCTIONS = [
  ...CAPTURE_FUNCTIONS,
  ['taskwire_has_triggers(integer)', hasTriggers],
  ['taskwire_rows_are_ours(integer)', rowsAreOurs],
] as const;

/** `on` and `off` as `CAPTURE` says; undefined: turned on or off as it is. */
export type Capture = 'on' | 'off' | undefined;

/** What there is of the functions and triggers by which other writers are heard. */
export interface CaptureFacts {
  /** Signatures of the functions that are not there. */
  readonly missingFunctions: readonly string[];
  readonly triggers: ReadonlyArray<CaptureTrigger & { readonly state: 'on' | 'off' | 'missing' }>;
}

/** Changes nothing. The tables have to be there. */
export async function examineCapture(db: Knex): Promise<CaptureFacts> {
  const { rows: functions }: { rows: Array<{ name: string }> } = await db.raw(
    // Another schema of the search path may have functions of the same names.
    `SELECT f.name FROM unnest(?::text[]) WITH ORDINALITY AS f (name, place), pg_class c
       JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE c.oid = to_regclass('tasks') AND to_regprocedure(format('%I.%s', n.nspname, f.name)) IS NULL ORDER BY f.place`,
    [FUNCTIONS.map(([signature]) => signature)],
  );
  const { rows: triggers }: { rows: Array<{ name: string; enabled: string }> } = await db.raw(
    `SELECT w.name, t.tgenabled AS enabled FROM unnest(?::text[], ?::text[]) AS w (name, place)
     JOIN pg_trigger t ON t.tgname = w.name AND t.tgrelid = to_regclass(w.place)`,
    [CAPTURE_TRIGGERS.map(({ name }) => name), CAPTURE_TRIGGERS.map(({ table }) => table)],
  );
  const enabled = new Map(triggers.map((trigger) => [trigger.name, trigger.enabled]));
  return {
    missingFunctions: functions.map(({ name }) => name),
    triggers: CAPTURE_TRIGGERS.map((trigger) => {
      const how = enabled.get(trigger.name);
      // R runs for replicated rows only.
      return { ...trigger, state: how === undefined ? 'missing' : how === 'D' || how === 'R' ? 'off' : 'on' };
    }),
  };
}

/** One thing that is to be done. */
export interface Repair {
  /** A function's signature, or the name of a trigger; undefined: what goes with the others. */
  readonly what?: string;
  readonly kind: 'make' | 'enable' | 'disable';
  /** The table that is locked for it; undefined: none. */
  readonly table?: string;
  readonly statement: string;
}

/**
 * What makes the functions and triggers what they should be; nothing where they are so, since a change waits for writers.
 * A trigger that was set to run always stays so.
 *
 * - `on`: all are there, and run.
 * - `off`: the triggers of `tasks` do not run.
 * - undefined: what somebody has dropped is made again. Where triggers of `tasks` are turned off, capture is meant to be
 *   off, and those that are not there are not missed.
 */
export function repairsOf({ missingFunctions, triggers }: CaptureFacts, capture: Capture): Repair[] {
  const meantOff =
    capture === 'off' || (capture === undefined && triggers.some((t) => t.table === 'tasks' && t.state === 'off'));
  const repairs: Repair[] = FUNCTIONS.filter(([signature]) => missingFunctions.includes(signature)).map(
    ([what, statement]) => ({ what, kind: 'make', statement }),
  );
  if (repairs.length > 0) {
    repairs.push(...[SETTLE_FUNCTIONS, settle].map((statement): Repair => ({ kind: 'make', statement })));
  }
  for (const { name: what, table, state, statement } of triggers) {
    const turn = (word: string): string => `ALTER TABLE ${table} ${word} TRIGGER ${what}`;
    if (state === 'missing' && !(meantOff && table === 'tasks')) {
      repairs.push({ what, kind: 'make', table, statement });
    } else if (state === 'off' && capture === 'on') {
      repairs.push({ what, kind: 'enable', table, statement: turn('ENABLE') });
    } else if (state === 'on' && capture === 'off' && table === 'tasks') {
      repairs.push({ what, kind: 'disable', table, statement: turn('DISABLE') });
    }
  }
  return repairs;
}
