import { errorEntry, TaskwireError, toTaskwireError } from '../protocol/errors.js';
import { type Identity, mayAccess, refusalOf } from '../protocol/tasks.js';
import type { BatchOutcome } from '../repository/batch-writes.js';
import type { CreateTaskInput } from '../repository/inputs.js';
import { jobIdInput, MAX_BATCH, parseInput, taskIdInput } from '../repository/task-input.js';
import type { TaskUpdate } from '../repository/task-patch.js';
import type { TaskReader } from '../repository/task-reader.js';
import type { TaskRepository, WriteOptions } from '../repository/task-repository.js';
import type { Answer } from './endpoint.js';
import { invalidField, objectOf } from './input.js';
import type { RestQueues } from './queues.js';

/** What the routes that write tasks need. */
export interface TaskWritePorts {
  readonly tasks: TaskRepository;
  readonly reader: TaskReader;
  readonly queues: Pick<RestQueues, 'writes'>;
}

/**
 * Creates a task per item. The items of one owner are one statement and one commit, in their order.
 * @returns 201 when all were written and 207 otherwise, with a result per item in their order: the write, or its error
 * @throws TaskwireError INVALID_REQUEST: not an array of 1 to 500 items; DATABASE_UNAVAILABLE: nothing was written
 */
export function createTasks(
  { tasks, reader, queues }: TaskWritePorts,
  identity: Identity,
  body: readonly unknown[],
  idempotencyKey: string | undefined,
): Promise<Answer> {
  return batch(body, 201, {
    idempotencyKey,
    identity,
    idOf: (item) => parseInput(jobIdInput, item['job_id'], 'job_id'),
    ownersOf: (ids) => reader.ownersOfJobs(ids),
    write: (owner, items) =>
      queues.writes.run(owner, () => unlocked(tasks.createManyTaskData(owner, items as unknown as CreateTaskInput[]))),
  });
}

/**
 * Makes an update per item, as `createTasks` does creations.
 * @returns 200 when all were written and 207 otherwise, with a result per item
 * @throws TaskwireError as `createTasks`
 */
export function updateTasks(
  { tasks, reader, queues }: TaskWritePorts,
  identity: Identity,
  body: readonly unknown[],
  idempotencyKey: string | undefined,
): Promise<Answer> {
  return batch(body, 200, {
    idempotencyKey,
    identity,
    idOf: (item) => String(parseInput(taskIdInput, item['task_id'], 'task_id')),
    ownersOf: (ids) => reader.ownersOfTasks(ids),
    write: (owner, items) =>
      queues.writes.run(owner, () => unlocked(tasks.updateManyTaskData(owner, items as unknown as TaskUpdate[]))),
  });
}

/** The items of a batch beyond the first, each of which counts as a request; a batch that is refused as a whole has none. */
export const moreItems = ({ length }: readonly unknown[]): number => (length > MAX_BATCH ? 0 : Math.max(0, length - 1));

type Item = Readonly<Record<string, unknown>>;

interface BatchPorts {
  readonly identity: Identity;
  /** Of the whole request: each item without a key of its own gets one made of it and the item's place. */
  readonly idempotencyKey: string | undefined;
  /** What an item is about. @throws TaskwireError INVALID_REQUEST */
  readonly idOf: (item: Item) => string;
  readonly ownersOf: (ids: readonly string[]) => Promise<ReadonlyMap<string, string>>;
  readonly write: (owner: string, items: readonly Item[]) => Promise<BatchOutcome[]>;
}

async function batch(body: readonly unknown[], status: number, ports: BatchPorts): Promise<Answer> {
  if (body.length === 0 || body.length > MAX_BATCH) {
    throw new TaskwireError('INVALID_REQUEST', { message: `The body must have 1 to ${MAX_BATCH} items` });
  }
  const outcomes: BatchOutcome[] = [];
  const known: Array<{ index: number; item: Item; id: string }> = [];
  for (const [index, value] of body.entries()) {
    try {
      const item = keyed(objectOf(value), index, ports);
      known.push({ index, item, id: ports.idOf(item) });
    } catch (error) {
      outcomes[index] = toTaskwireError(error);
    }
  }
  const { identity } = ports;
  const denied = refusalOf(identity);
  const owners = await ports.ownersOf([...new Set(known.map(({ id }) => id))]);
  const groups = new Map<string, typeof known>();
  for (const entry of known) {
    const found = owners.get(entry.id);
    const sees = found !== undefined && mayAccess(identity, found);
    // What is not there any more may have been written before, under the same key; among one's own it is not found.
    const owner = sees ? found : identity.owner;
    if (!sees && entry.item['idempotency_key'] === undefined) {
      outcomes[entry.index] = new TaskwireError(denied);
    } else if (!groups.get(owner)?.push(entry)) {
      groups.set(owner, [entry]);
    }
  }
  // One after the other, so that a request uses one connection to the database at a time.
  let unavailable: BatchOutcome | undefined;
  for (const [owner, entries] of groups) {
    const items = entries.map(({ item }) => item);
    // When the queue of one stream is full, the items of other streams are still written.
    const written =
      unavailable === undefined
        ? await ports.write(owner, items).catch((error) => items.map(() => toTaskwireError(error)))
        : [];
    unavailable ??= written.find(
      (outcome) => outcome instanceof TaskwireError && outcome.code === 'DATABASE_UNAVAILABLE',
    );
    for (const [place, { index }] of entries.entries()) {
      const outcome = written[place] ?? unavailable!;
      const gone = outcome instanceof TaskwireError && outcome.code === 'NOT_FOUND';
      outcomes[index] = gone ? new TaskwireError(denied) : outcome;
    }
  }
  return answer(outcomes, status);
}

/** @throws TaskwireError STREAM_BUSY when the stream was locked and nothing was written */
async function unlocked(writing: Promise<BatchOutcome[]>): Promise<BatchOutcome[]> {
  const outcomes = await writing;
  const locked = outcomes.find((outcome) => outcome instanceof TaskwireError && outcome.code === 'STREAM_BUSY');
  if (locked !== undefined && outcomes.every((outcome) => outcome instanceof TaskwireError)) {
    throw locked;
  }
  return outcomes;
}

function answer(outcomes: readonly BatchOutcome[], status: number): Answer {
  const errors = outcomes.filter((outcome) => outcome instanceof TaskwireError);
  const unavailable = errors.find(({ code }) => errorEntry(code).status === 503);
  if (unavailable !== undefined && errors.length === outcomes.length) {
    throw unavailable;
  }
  return {
    status: errors.length === 0 ? status : 207,
    body: {
      results: outcomes.map((outcome) => (outcome instanceof TaskwireError ? { error: outcome.body } : outcome)),
    },
  };
}

/** The same idempotency key of two owners is two keys. */
export const optionsOf = ({ owner }: Identity, key: string | undefined): WriteOptions => ({
  idempotencyKey: key === undefined ? undefined : scoped(owner, key),
});

const scoped = (...parts: readonly unknown[]): string => JSON.stringify(parts);

/** @throws TaskwireError INVALID_REQUEST */
function keyed(item: Item, index: number, { identity, idempotencyKey }: BatchPorts): Item {
  const own = item['idempotency_key'];
  if (own !== undefined && (typeof own !== 'string' || own.length === 0 || own.length > 255)) {
    throw invalidField('idempotency_key', 'wants 1 to 255 characters');
  }
  if (own === undefined && idempotencyKey === undefined) {
    return item;
  }
  const key = own === undefined ? scoped(identity.owner, idempotencyKey, index) : scoped(identity.owner, own);
  return { ...item, idempotency_key: key };
}
