import { causeText, isAcquireTimeout, isAway, isServerTrouble, refusesWrites } from './database-errors.js';

/** The pools whose queries say how the database is. */
export type PoolName = 'writes' | 'reads' | 'lookups';

/** What the database cannot do now. */
export interface DatabaseTrouble {
  /**
   * `down`: it does not answer, or takes no more connections. `failing`: it refuses logins or statements, as it is not set
   * up as it should be. `read-only`: writes are refused, for example because the disk is full. `busy`: all connections of a
   * pool are in use.
   */
  readonly status: 'down' | 'failing' | 'read-only' | 'busy';
  /** In words for an operator: the pool and what the server or the driver said. */
  readonly reason: string;
}

/**
 * Trouble of which the server tells statement by statement is over when none has met it for so long, in milliseconds: on a
 * full disk a write that finds room in a page succeeds between others that do not.
 */
const CALM_MS = 5_000;
/** How long the health remembers a failure that has not come again, in milliseconds: perhaps nobody has tried. */
const RECENT_MS = 30_000;

/** What the queries of one pool report: how they went. */
export interface PoolWatch {
  /** Whether `worked` has something to say: only then it need be called. */
  readonly troubled: boolean;
  worked(): void;
  /** @param full whether all connections of the pool were in use */
  failed(error: unknown, full: boolean): void;
}

export interface DatabaseWatchOptions {
  /** Told once when trouble begins, and when its kind changes. */
  readonly onTrouble: (trouble: DatabaseTrouble) => void;
  readonly onRecovery: () => void;
  /** After how long without a failure trouble is over, in milliseconds (5,000). */
  readonly calmMs?: number;
}

/**
 * Knows from the queries that run anyway whether the database serves, so that every change is one line of the log and not
 * one of each request. A statement that fails by its own fault says nothing about the database.
 */
export class DatabaseWatch {
  private readonly troubles = new Map<PoolName, DatabaseTrouble>();
  private readonly calming = new Map<PoolName, NodeJS.Timeout>();
  private failedAt = Number.NEGATIVE_INFINITY;

  constructor(private readonly options: DatabaseWatchOptions) {}

  /** The worst failures of the last half minute, and of which pools. */
  get recentTrouble(): { readonly status: DatabaseTrouble['status']; readonly pools: readonly PoolName[] } | undefined {
    const status = this.trouble?.status;
    if (status === undefined || performance.now() - this.failedAt > RECENT_MS) {
      return undefined;
    }
    return {
      status,
      pools: [...this.troubles].flatMap(([name, trouble]) => (trouble.status === status ? [name] : [])),
    };
  }

  /** The worst trouble of any pool that no later query has disproved. */
  get trouble(): DatabaseTrouble | undefined {
    const troubles = [...this.troubles.values()];
    return (['down', 'failing', 'read-only', 'busy'] as const)
      .map((status) => troubles.find((trouble) => trouble.status === status))
      .find((trouble) => trouble !== undefined);
  }

  /** The watch of one pool. */
  pool(name: PoolName): PoolWatch {
    const { troubles, calming } = this;
    const { calmMs = CALM_MS } = this.options;
    const change = (trouble: DatabaseTrouble | undefined): void => this.change(name, trouble);
    return {
      get troubled() {
        return troubles.has(name) && !calming.has(name);
      },
      worked() {
        if (troubles.get(name)?.status === 'down') {
          change(undefined);
        } else if (troubles.has(name) && !calming.has(name)) {
          calming.set(name, setTimeout(change, calmMs, undefined).unref());
        }
      },
      failed(error, full) {
        const status = refusesWrites(error)
          ? 'read-only'
          : full && isAcquireTimeout(error)
            ? 'busy'
            : isServerTrouble(error)
              ? isAway(error)
                ? 'down'
                : 'failing'
              : undefined;
        if (status !== undefined) {
          change({ status, reason: `${name}: ${reasonOf(error, full)}` });
        }
      },
    };
  }

  private change(name: PoolName, trouble: DatabaseTrouble | undefined): void {
    const before = this.trouble;
    clearTimeout(this.calming.get(name));
    this.calming.delete(name);
    if (trouble === undefined) {
      this.troubles.delete(name);
    } else {
      this.failedAt = performance.now();
      this.troubles.set(name, trouble);
    }
    const now = this.trouble;
    if (now === undefined && before !== undefined) {
      this.options.onRecovery();
    } else if (now !== undefined && now.status !== before?.status) {
      this.options.onTrouble(now);
    }
  }
}

/** What the server or the driver said; what the pool says, without a code, would blame its size. */
function reasonOf(error: unknown, full: boolean): string {
  if (!isAcquireTimeout(error) || (error as { code?: unknown }).code !== undefined) {
    return causeText(error);
  }
  return full ? 'all connections are in use' : 'no connection could be made in time';
}
