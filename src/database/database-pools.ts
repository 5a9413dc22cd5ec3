import type { Knex } from 'knex';
import { connectDatabase, connectPool, type DatabaseOptions, finderOf, sessionFacts } from './connect-database.js';
import type { DatabaseWatch, PoolName } from './database-watch.js';
import { query } from './query.js';

export interface DatabasePoolsOptions extends Pick<DatabaseOptions, 'url' | 'onWarning' | 'onNote'> {
  /** Most connections of this process, over all pools; at least three are used. */
  readonly connections: number;
  /** A replica for pages, snapshots and replays; unset: they are read where everything else is. */
  readonly readUrl?: string | undefined;
  readonly watch: DatabaseWatch;
}

/**
 * The connections of one worker to the database, in a pool for each purpose. What waits in one pool does not hold up the
 * others.
 *
 * Example: sixty writes wait for a locked row and use up the connections of `writes`. Keys are still looked up, rooms are
 * still joined, and the health still answers.
 */
export interface DatabasePools {
  /** Writes of tasks, jobs and keys, and the trimming of the log. */
  readonly writes: Knex;
  /** Pages, snapshots and replays from the server that takes writes. */
  readonly reads: Knex;
  /** Quick questions with one row for an answer: keys, owners of rooms, heads of streams, the health probe. */
  readonly lookups: Knex;
  /** Pages, snapshots and replays from a replica; undefined when there is none. */
  readonly replica: Knex | undefined;
  /** Most statements that run at a time in `writes`, and in `reads`. */
  readonly sizes: { readonly writes: number; readonly reads: number };
  /** Asks for nothing, and rejects when the database does not serve. `watch` is told how that went. */
  probe(): Promise<unknown>;
  destroy(): Promise<void>;
}

/** How long a write waits for a lock, in milliseconds: then its connection is for others, and it is tried again. */
const WRITE_LOCK_MS = 200;

/** How often it is looked whether the server is still the wanted one, in milliseconds. */
const EXAMINE_MS = 5_000;

/** Half of the connections are for writes, a fifth for quick questions, the rest for reads. */
export function connectPools({ connections, url, readUrl, watch, ...told }: DatabasePoolsOptions): DatabasePools {
  const lookups = Math.max(1, Math.floor(connections / 5));
  const writes = Math.max(1, Math.floor(connections / 2));
  const reads = Math.max(1, connections - writes - lookups);
  const finder = finderOf({ url });
  const optionsOf = (name: PoolName, pool: number): DatabaseOptions => ({
    ...told,
    url,
    pool,
    applicationName: `taskwire ${name}`,
    watch: watch.pool(name),
  });
  const pools = {
    writes: connectPool({ ...optionsOf('writes', writes), lockMs: WRITE_LOCK_MS }, finder),
    reads: connectPool(optionsOf('reads', reads), finder, true),
    lookups: connectPool(optionsOf('lookups', lookups), finder, true),
    replica:
      readUrl === undefined
        ? undefined
        : connectDatabase({ ...told, url: readUrl, session: 'any', pool: reads, applicationName: 'taskwire replica' }),
  };
  const examine = setInterval(() => {
    // When nobody answers, whoever needs the database meets that.
    finder.examine(() => sessionFacts(pools.lookups)).catch(() => {});
  }, EXAMINE_MS).unref();
  return {
    ...pools,
    sizes: { writes, reads },
    probe: () => query(pools.lookups, 'SELECT 1', []),
    destroy: async () => {
      clearInterval(examine);
      await Promise.all(Object.values(pools).map((db) => db?.destroy()));
    },
  };
}
