import { errorEntry, TaskwireError, toTaskwireError } from '../protocol/errors.js';
import type { ItemKeys } from './batch-statements.js';
import type { Write } from './foreign-triggers.js';
import { MAX_BATCH } from './task-input.js';
import { isKeyTaken, type KeptWrite, keptWrites, type WriteKey } from './write-keys.js';
import { CONFLICT_ATTEMPTS, type TaskWrite, type WriteRunner } from './write-runner.js';
import type { Statement, WriteRow } from './write-statements.js';

/** What became of an item of a batch: what was written, or why it was not. */
export type BatchOutcome = TaskWrite | TaskwireError;

/** An item of a batch, which may have a key of its own (`WriteOptions.idempotencyKey`). */
export type Keyed<Item> = Item & { readonly idempotency_key?: string | undefined };

/** What the batches of one kind of write differ in. */
export interface BatchKind<Item> {
  /** @throws TaskwireError INVALID_REQUEST */
  readonly check: (input: object) => Item;
  readonly fingerprint: (item: Item) => unknown;
  /** The statement of some items; it leaves out some and returns the rows of the others in order. */
  readonly statementOf: (items: readonly Item[], keys: ItemKeys) => Statement;
  /** What rows the statement writes. */
  readonly write: Write;
  /** Makes the write of one item, where a trigger has a hand in what the rows become. */
  readonly writeAlone: (item: Item, key: WriteKey | undefined) => Promise<TaskWrite>;
  /** Whether a row is that of an item, or of one that is left out or written for the same reason. */
  readonly isOf: (item: Item, row: WriteRow) => boolean;
  readonly missing: 'job' | 'task';
}

interface Entry<Item> {
  readonly index: number;
  readonly item: Item;
  readonly key: WriteKey | undefined;
}

export const notFound = (missing: 'job' | 'task'): TaskwireError =>
  new TaskwireError('NOT_FOUND', { message: `No such ${missing}` });

/**
 * Makes the writes of a batch in one statement and one commit; where a trigger of the operator has a hand in what rows become, in one
 * of each item. An item that is wrong does not keep the others from being
 * written; one whose key was used before is answered as it was then.
 * @returns an outcome per item, in their order
 * @throws TaskwireError INVALID_REQUEST when there are too many items; whatever fails, where the writes join a transaction
 */
export async function writeBatch<Input extends object, Item>(
  runner: WriteRunner,
  inputs: readonly Input[],
  kind: BatchKind<Item>,
): Promise<BatchOutcome[]> {
  if (inputs.length > MAX_BATCH) {
    throw new TaskwireError('INVALID_REQUEST', { message: `At most ${MAX_BATCH} items at once` });
  }
  const outcomes: BatchOutcome[] = [];
  const entries: Array<Entry<Item>> = [];
  for (const [index, given] of inputs.entries()) {
    try {
      const { idempotency_key, ...input } = given as { idempotency_key?: string };
      const item = kind.check(input);
      entries.push({ index, item, key: runner.keyOf(idempotency_key, () => kind.fingerprint(item)) });
    } catch (error) {
      outcomes[index] = toTaskwireError(error);
    }
  }
  for (let attempt = 1; ; attempt += 1) {
    try {
      await writeEntries(runner, entries, kind, outcomes);
      return outcomes;
    } catch (error) {
      if (runner.joins) {
        // Whose transaction it is has to know that it has failed.
        throw error;
      }
      if (isKeyTaken(error) && attempt < CONFLICT_ATTEMPTS) {
        continue;
      }
      for (const { index } of entries) {
        outcomes[index] = toTaskwireError(error);
      }
      return outcomes;
    }
  }
}

async function writeEntries<Item>(
  runner: WriteRunner,
  entries: ReadonlyArray<Entry<Item>>,
  { statementOf, write, writeAlone, isOf, missing }: BatchKind<Item>,
  outcomes: BatchOutcome[],
): Promise<void> {
  const keys = entries.flatMap(({ key }) => (key === undefined ? [] : [key.key]));
  const kept = keys.length === 0 ? new Map<string, KeptWrite>() : await keptWrites(runner.db, keys);
  const todo = new Map<string | number, Entry<Item>>();
  const again: Array<{ readonly entry: Entry<Item>; readonly first: Entry<Item> }> = [];
  for (const entry of entries) {
    const { index, key } = entry;
    const made = key && kept.get(key.key);
    const first = key && todo.get(key.key);
    if (made !== undefined) {
      outcomes[index] = made.fingerprint === key?.fingerprint ? writeOf(made) : mismatch();
    } else if (first !== undefined) {
      again.push({ entry, first });
    } else {
      todo.set(key?.key ?? index, entry);
    }
  }
  const writing = [...todo.values()];
  if (writing.length > 0) {
    const written = await runner.writeUnobserved(write, () =>
      statementOf(
        writing.map(({ item }) => item),
        writing.map(({ key }) => key),
      ),
    );
    if (written === undefined) {
      await writeEach(runner, writing, writeAlone, outcomes);
    } else {
      let next = 0;
      for (const { index, item } of writing) {
        const row = written.rows[next];
        outcomes[index] = row !== undefined && isOf(item, row) ? written.writes[next++]! : notFound(missing);
      }
    }
  }
  for (const { entry, first } of again) {
    outcomes[entry.index] = entry.key?.fingerprint === first.key?.fingerprint ? outcomes[first.index]! : mismatch();
  }
}

/** Makes writes one after the other, each with a commit of its own. Where the database is away or locked, the rest is not tried. */
async function writeEach<Item>(
  runner: WriteRunner,
  entries: ReadonlyArray<Entry<Item>>,
  writeAlone: BatchKind<Item>['writeAlone'],
  outcomes: BatchOutcome[],
): Promise<void> {
  let away: TaskwireError | undefined;
  for (const { index, item, key } of entries) {
    try {
      outcomes[index] = away ?? (await writeAlone(item, key));
    } catch (thrown) {
      const error = toTaskwireError(thrown);
      const { status } = errorEntry(error.code);
      if (runner.joins && status >= 500) {
        throw thrown;
      }
      away = status === 503 ? error : undefined;
      outcomes[index] = error;
    }
  }
}

export const mismatch = (): TaskwireError => new TaskwireError('IDEMPOTENCY_MISMATCH');

const writeOf = ({ task_id, job_id, user_id, seq, epoch }: KeptWrite): TaskWrite => ({
  task_id: Number(task_id),
  job_id,
  user_id,
  seq: Number(seq),
  epoch,
});
