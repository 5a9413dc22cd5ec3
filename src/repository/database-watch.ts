import { causeText, isAcquireTimeout, isServerTrouble, refusesWrites } from './database-errors.js';

/** What the database cannot do now, as the health tells it. */
export interface DatabaseTrouble {
  /** `read-only`: writes are refused, for example because the disk is full. `busy`: all connections of a pool are in use. */
  readonly status: 'read-only' | 'busy' | 'down';
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
  private readonly troubles = new Map<string, DatabaseTrouble>();
  private readonly calming = new Map<string, NodeJS.Timeout>();
  private failedAt = Number.NEGATIVE_INFINITY;

  constructor(private readonly options: DatabaseWatchOptions) {}

  /** Failures of the last half minute, while the server answers. */
  get recentTrouble(): 'read-only' | 'busy' | undefined {
    const status = this.trouble?.status;
    return status === 'down' || performance.now() - this.failedAt > RECENT_MS ? undefined : status;
  }

  /** The worst trouble of any pool that no later query has disproved. */
  get trouble(): DatabaseTrouble | undefined {
    const troubles = [...this.troubles.values()];
    return (['down', 'read-only', 'busy'] as const)
      .map((status) => troubles.find((trouble) => trouble.status === status))
      .find((trouble) => trouble !== undefined);
  }

  /** The watch of one pool. */
  pool(name: string): PoolWatch {
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
              ? 'down'
              : undefined;
        if (status !== undefined) {
          change({ status, reason: `${name}: ${causeText(error)}` });
        }
      },
    };
  }

  private change(name: string, trouble: DatabaseTrouble | undefined): void {
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
