import { isDeepStrictEqual } from 'node:util';
import type { Knex } from 'knex';
import { differences, type LoggedEvent, type Said, told, type Visible, visible } from './told.js';

/*
 * A second account of what was committed, by triggers of the test's own: each change of a task, with the row before and
 * after, and each event of the log, in the order in which a transaction made them. What was rolled back has left no trace
 * here either. So it can be held, transaction by transaction, that each change of a row is exactly one event.
 */

const INSTALL = [
  `CREATE TABLE ledger (
     n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
     tx bigint NOT NULL,
     what text NOT NULL,
     old jsonb,
     new jsonb
   )`,
  'CREATE INDEX ledger_by_tx ON ledger (tx, n)',
  `CREATE FUNCTION ledger_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
   SET search_path = pg_catalog, public SET "TimeZone" = 'UTC' SET "DateStyle" = 'ISO' SET extra_float_digits = 1 AS $$
   DECLARE
     before jsonb;
     after jsonb;
   BEGIN
     IF TG_OP <> 'INSERT' THEN
       before := to_jsonb(OLD) || jsonb_build_object('job_id', OLD.job_id::text);
     END IF;
     IF TG_OP <> 'DELETE' THEN
       after := to_jsonb(NEW) || jsonb_build_object('job_id', NEW.job_id::text);
     END IF;
     INSERT INTO ledger (tx, what, old, new) VALUES (txid_current(), TG_ARGV[0], before, after);
     RETURN NULL;
   END $$`,
  `CREATE FUNCTION ledger_event() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
   SET search_path = pg_catalog, public AS $$
   BEGIN
     INSERT INTO ledger (tx, what, new)
     VALUES (txid_current(), 'event', to_jsonb(NEW) || jsonb_build_object('job_id', NEW.job_id::text));
     RETURN NULL;
   END $$`,
  `CREATE TRIGGER ledger_written AFTER INSERT OR UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION ledger_change('change')`,
  // The repository says which task it deletes; a deleted row has no mark.
  ...(['=', '<>'] as const).map(
    (is) => `CREATE TRIGGER ledger_deleted_${is === '=' ? 'by_us' : 'by_others'} AFTER DELETE ON tasks FOR EACH ROW
      WHEN (coalesce(current_setting('taskwire.deleting', true), '') ${is} OLD.task_id::text)
      EXECUTE FUNCTION ledger_change('${is === '=' ? 'deletion' : 'change'}')`,
  ),
  'CREATE TRIGGER ledger_logged AFTER INSERT ON task_events FOR EACH ROW EXECUTE FUNCTION ledger_event()',
];

interface Entry {
  readonly n: string;
  readonly tx: string;
  /** `deletion`: one by the repository, which logs it itself. */
  readonly what: 'change' | 'deletion' | 'event';
  readonly old: Said | null;
  readonly new: Said | null;
}

export interface LedgerReport {
  readonly transactions: number;
  readonly changes: number;
  readonly events: number;
  /** Events of changes that were captured when their transaction committed. */
  readonly captured: number;
  /** Changes of transactions that came to nothing that anybody sees. */
  readonly unseen: number;
  readonly problems: readonly string[];
}

/** Begins to keep account of a migrated database. Run by who owns it. */
export async function installLedger(db: Knex): Promise<void> {
  for (const statement of INSTALL) {
    await db.raw(statement);
  }
}

const PAGE = 5_000;
const KEPT_PROBLEMS = 20;

/** Reads the account, and holds the log against it. */
export class Ledger {
  private readonly problems: string[] = [];
  private readonly byUser = new Map<string, Array<LoggedEvent & { readonly tx: string }>>();
  private transactions = 0;
  private changes = 0;
  private captured = 0;
  private unseen = 0;

  private constructor(private readonly db: Knex) {}

  static async check(db: Knex): Promise<LedgerReport> {
    const ledger = new Ledger(db);
    await ledger.read();
    await ledger.checkOrder();
    await ledger.checkReplay();
    const { transactions, changes, captured, unseen, problems } = ledger;
    const events = [...ledger.byUser.values()].reduce((sum, { length }) => sum + length, 0);
    return { transactions, changes, events, captured, unseen, problems: problems.slice(0, KEPT_PROBLEMS) };
  }

  private async read(): Promise<void> {
    let entries: Entry[] = [];
    for (let [tx, n] = ['0', '0'] as [string, string]; ; ) {
      const { rows } = (await this.db.raw(
        `SELECT n, tx, what, old, new FROM ledger WHERE (tx, n) > (?::bigint, ?::bigint) ORDER BY tx, n LIMIT ${PAGE}`,
        [tx, n],
      )) as { rows: Entry[] };
      for (const entry of rows) {
        if (entries.length > 0 && entry.tx !== entries[0]!.tx) {
          this.transaction(entries);
          entries = [];
        }
        entries.push(entry);
      }
      const last = rows.at(-1);
      if (last === undefined) {
        break;
      }
      ({ tx, n } = last);
    }
    if (entries.length > 0) {
      this.transaction(entries);
    }
  }

  private transaction(entries: readonly Entry[]): void {
    this.transactions += 1;
    const { tx } = entries[0]!;
    const audit = new Transaction((problem) => this.problem(`transaction ${tx}: ${problem}`));
    for (const entry of entries) {
      if (entry.what === 'event') {
        const event = eventOf(entry.new!);
        audit.event(event);
        const events = this.byUser.get(event.user_id) ?? [];
        this.byUser.set(event.user_id, events);
        events.push({ ...event, tx });
      } else {
        this.changes += 1;
        audit.change(entry, BigInt(tx));
      }
    }
    audit.end();
    this.captured += audit.captured;
    this.unseen += audit.unseen;
  }

  /** Numbers without a gap, in the order of the commits. */
  private async checkOrder(): Promise<void> {
    const { rows } = (await this.db.raw(
      `SELECT tx, (extract(epoch FROM pg_xact_commit_timestamp(tx::text::xid)) * 1000000)::bigint AS at
       FROM (SELECT DISTINCT tx FROM ledger) t`,
    )) as { rows: Array<{ tx: string; at: string | null }> };
    const committedAt = new Map(rows.map(({ tx, at }) => [tx, Number(at)]));
    const heads = (await this.db('event_streams').select('user_id', 'seq')) as Array<{ user_id: string; seq: string }>;
    for (const { user_id, seq } of heads) {
      const events = (this.byUser.get(user_id) ?? []).sort((a, b) => a.seq - b.seq);
      const gap = events.findIndex((event, index) => event.seq !== index + 1);
      if (gap >= 0 || events.length !== Number(seq)) {
        this.problem(`${user_id}: ${events.length} events up to ${seq}, the first gap at ${gap + 1}`);
      }
      for (const [index, { seq, tx }] of events.entries()) {
        const before = events[index - 1];
        if (before !== undefined && committedAt.get(before.tx)! > committedAt.get(tx)!) {
          this.problem(`${user_id}: ${before.seq} was committed after ${seq}`);
        }
      }
    }
  }

  /** What all events add up to is the table. */
  private async checkReplay(): Promise<void> {
    const table = new Map<number, Visible>();
    const { rows } = (await this.db.raw(
      `SELECT to_jsonb(t) || jsonb_build_object('job_id', job_id::text) AS row FROM tasks t`,
    )) as { rows: Array<{ row: Said }> };
    for (const { row } of rows) {
      table.set(Number(row['task_id']), visible(row));
    }
    for (const [user, events] of this.byUser) {
      const replayed = new Map<number, Visible>();
      for (const event of events) {
        const row = applied(replayed.get(event.task_id), event);
        if (row === undefined) {
          replayed.delete(event.task_id);
        } else {
          replayed.set(event.task_id, row);
        }
      }
      const owned = [...table.values()].filter(({ user_id }) => user_id === user);
      if (owned.length !== replayed.size) {
        this.problem(`${user} has ${owned.length} tasks, its log adds up to ${replayed.size}`);
      }
      for (const row of owned) {
        const wrong = differences(row, replayed.get(Number(row['task_id'])) ?? {});
        if (wrong.length > 0) {
          this.problem(`${user}: task ${row['task_id']} is another one by its log in ${wrong.join(', ')}`);
        }
      }
    }
  }

  private problem(text: string): void {
    this.problems.push(text);
  }
}

function eventOf(row: Said): LoggedEvent {
  const { user_id, seq, job_id, task_id, type, changes } = row as unknown as LoggedEvent;
  return { user_id, seq: Number(seq), job_id, task_id: Number(task_id), type, changes };
}

/** A row after an event; undefined when it is gone. */
function applied(
  row: Visible | undefined,
  { type, changes, task_id, job_id, user_id }: LoggedEvent,
): Visible | undefined {
  if (type === 'TASK_DELETED') {
    return undefined;
  }
  const { old_fee, new_fee, old_status, new_status, ...fields } = changes;
  return { ...row, ...fields, task_id, job_id, user_id };
}

/** Changes of one task that wait for their event: the row before the first and after the last of them. */
interface Pending {
  readonly old: Visible | undefined;
  now: Visible | undefined;
}

/** A change by the repository, and what its events have told of it. */
interface Written extends Pending {
  events: number;
  told: Visible | undefined;
}

/** One transaction, entry by entry. */
class Transaction {
  captured = 0;
  unseen = 0;
  /** Changes by statements of others: they are told before the repository's next write, or at the commit. */
  private readonly pending = new Map<number, Pending & { missing?: LoggedEvent[] }>();
  /** Changes by the repository, whose events come at once. */
  private readonly written = new Map<number, Written>();
  /** Events that stand before their changes: of one statement, a batch. */
  private readonly ahead = new Map<number, LoggedEvent[]>();

  constructor(private readonly problem: (text: string) => void) {}

  change({ what, old, new: row }: Entry, tx: bigint): void {
    const before = old === null ? undefined : visible(old);
    const after = row === null ? undefined : visible(row);
    const logs = what === 'deletion' || (row !== null && isMarked(old, row, tx));
    if (logs) {
      this.settle();
      const id = Number((after ?? before)!['task_id']);
      this.close(id);
      const written: Written = { old: before, now: after, events: 0, told: before };
      this.written.set(id, written);
      for (const event of this.ahead.get(id) ?? []) {
        this.check(event, written);
      }
      this.ahead.delete(id);
      return;
    }
    const ids = new Set([before, after].flatMap((one) => (one === undefined ? [] : [Number(one['task_id'])])));
    for (const id of ids) {
      this.close(id);
      const was = before !== undefined && Number(before['task_id']) === id ? before : undefined;
      const is = after !== undefined && Number(after['task_id']) === id ? after : undefined;
      const pending = this.pending.get(id);
      if (pending?.missing !== undefined) {
        this.problem(`task ${id} was changed again before ${pending.missing.length} of its events were logged`);
      }
      if (pending === undefined) {
        this.pending.set(id, { old: was, now: is });
      } else {
        pending.now = is;
      }
    }
  }

  event(event: LoggedEvent): void {
    const { task_id } = event;
    const pending = this.pending.get(task_id);
    if (pending !== undefined) {
      pending.missing ??= told(pending.old, pending.now);
      const place = pending.missing.findIndex((wanted) => isDeepStrictEqual(wanted, { ...event, seq: 0 }));
      if (place < 0) {
        this.problem(
          `task ${task_id}: ${JSON.stringify(event)} instead of ${JSON.stringify(pending.missing)} at ${event.user_id} ${event.seq}`,
        );
      } else {
        this.captured += 1;
        pending.missing.splice(place, 1);
      }
      if (place < 0 || pending.missing.length === 0) {
        this.pending.delete(task_id);
      }
      return;
    }
    const written = this.written.get(task_id);
    if (written === undefined) {
      this.ahead.set(task_id, [...(this.ahead.get(task_id) ?? []), event]);
    } else {
      this.check(event, written);
    }
  }

  end(): void {
    this.settle();
    for (const id of [...this.written.keys()]) {
      this.close(id);
    }
    for (const { type, task_id, user_id, seq } of [...this.ahead.values()].flat()) {
      this.problem(`task ${task_id}: ${type} ${user_id} ${seq} without a change`);
    }
  }

  /** Each event of the repository tells what it replaces, one after the other. */
  private check(event: LoggedEvent, written: Written): void {
    const before = written.told;
    written.events += 1;
    const { old_status, old_fee, new_status, new_fee, task_status, task_opx_cost } = event.changes;
    const where = `task ${event.task_id}: ${event.type} ${event.user_id} ${event.seq}`;
    const tellsStatus = event.type === 'TASK_STATUS_CHANGED' || event.type === 'TASK_DELETED';
    const tellsFee = event.type === 'TASK_FEE_UPDATED' || event.type === 'TASK_DELETED';
    if (tellsStatus && old_status !== before?.['task_status']) {
      this.problem(`${where} replaces ${JSON.stringify(old_status)}, not ${JSON.stringify(before?.['task_status'])}`);
    }
    if (tellsFee && old_fee !== before?.['task_opx_cost']) {
      this.problem(`${where} replaces ${JSON.stringify(old_fee)}, not ${JSON.stringify(before?.['task_opx_cost'])}`);
    }
    if (new_status !== (event.type === 'TASK_STATUS_CHANGED' ? task_status : undefined)) {
      this.problem(`${where} says two statuses`);
    }
    if (new_fee !== (event.type === 'TASK_FEE_UPDATED' ? task_opx_cost : undefined)) {
      this.problem(`${where} says two fees`);
    }
    if ((event.type === 'TASK_CREATED') !== (before === undefined)) {
      this.problem(`${where} of a task that was ${before === undefined ? 'not ' : ''}there`);
    }
    written.told = applied(before, event);
  }

  /** What others changed has been told by now. */
  private settle(): void {
    for (const [id, { old, now, missing = told(old, now) }] of this.pending) {
      if (missing.length > 0) {
        this.problem(`task ${id}: no event says ${JSON.stringify(missing)}`);
      } else {
        this.unseen += 1;
      }
    }
    this.pending.clear();
  }

  /** What the repository wrote has been told by now. */
  private close(id: number): void {
    const written = this.written.get(id);
    if (written === undefined) {
      return;
    }
    this.written.delete(id);
    const wrong = written.events === 0 ? ['everything'] : differences(written.now ?? {}, written.told ?? {});
    if (wrong.length > 0) {
      this.problem(`task ${id}: ${written.events} events of the repository are wrong in ${wrong.join(', ')}`);
    }
  }
}

/** Whether the repository's statement wrote a row: it has left a new mark. */
function isMarked(old: Said | null, row: Said, tx: bigint): boolean {
  const mark = BigInt(String(row['write_mark']));
  return mark >> 20n === tx && mark !== BigInt(String(old?.['write_mark'] ?? 0));
}
