import { askServer } from './ask-server.js';
import type { ServerFinder } from './server-finder.js';

/** A place at the server that a pool would take beyond its size, because sessions that it has given up are still there. */
class NoPlaceError extends Error {
  /** The pool is full, as for whoever waits for a connection in vain. */
  override readonly name = 'TimeoutError';
  /** Postgres' own code for too many connections. */
  readonly code = '53300';
}

/** How many connections a pool has, and how many it may have. */
export interface PoolCounts {
  numUsed(): number;
  numFree(): number;
  numPendingCreates(): number;
  readonly max: number;
}

/** A session that may still be there. */
interface GivenUp {
  readonly pid: number;
  /** When it was given up. */
  readonly at: number;
  /** When its server was started. */
  readonly server: string | undefined;
}

/** An answer is good for so long, in milliseconds. */
const LOOK_MS = 1_000;
/** How long the server may take to say it, and to be reached, in milliseconds. */
const ANSWER_MS = 3_000;

/**
 * Which of some sessions are there and do something: wait for a standby, a disk or a lock. Bindings: pids, and for how many
 * seconds each has been given up. A younger session has only got the same pid. One that waits for its client is ended by
 * the system, as it does not find it.
 */
const STILL_THERE = `SELECT s.pid FROM unnest($1::int[], $2::float8[]) AS given_up (pid, seconds)
  JOIN pg_stat_activity s ON s.pid = given_up.pid
  WHERE s.state NOT LIKE 'idle%' AND s.wait_event_type IS DISTINCT FROM 'Client'
    AND extract(epoch FROM clock_timestamp() - s.backend_start) > given_up.seconds`;

/**
 * Sessions of a pool whose connection was closed because they were silent, and which the server has not ended.
 *
 * Example: the synchronous standby is away. Each write waits for it in its commit, for as long as that takes. The client
 * gives it up after eleven seconds, but the server does not, and must not: to cancel the wait would be to confirm a commit
 * that no standby has. A pool that opened a connection in place of each would take all sessions of the server, those of
 * other programs as well. So sessions count until they have ended.
 *
 * They do not count while the server cannot be asked: then it is away as a whole.
 */
export class AbandonedSessions {
  private readonly sessions = new Map<number, GivenUp>();
  /** Whether the server has answered when it was asked last. */
  private known = true;
  private lookedAt = Number.NEGATIVE_INFINITY;
  private looking: Promise<void> | undefined;
  /** Connections to be made that wait for an answer. */
  private waiting = 0;

  /** @param finder of the pool; sessions at servers that it has left do not count */
  constructor(private readonly finder: ServerFinder) {}

  /** How many places of the pool they take. */
  get taken(): number {
    return this.known ? this.sessions.size : 0;
  }

  /** A connection was closed while its server was silent. */
  add(pid: number): void {
    this.sessions.set(pid, { pid, at: performance.now(), server: this.finder.server });
    this.lookedAt = Number.NEGATIVE_INFINITY;
  }

  /**
   * Called before each connection of a pool is made, which the pool counts already.
   * @throws Error when there is no place for it
   */
  async admit(pool: PoolCounts): Promise<void> {
    if (this.sessions.size === 0) {
      return;
    }
    if (!this.known) {
      void this.look();
    } else if (this.isFull(pool)) {
      this.waiting += 1;
      await this.look();
      this.waiting -= 1;
      if (this.isFull(pool)) {
        throw new NoPlaceError(
          `${this.taken} of ${pool.max} connections were given up, and the server does not end their sessions; does it wait for a synchronous standby?`,
        );
      }
    }
  }

  private isFull(pool: PoolCounts): boolean {
    const others = pool.numUsed() + pool.numFree() + pool.numPendingCreates() - this.waiting;
    return others + this.taken > pool.max;
  }

  /** Forgets those that have ended. Never rejects. */
  private look(): Promise<void> {
    if (performance.now() - this.lookedAt < LOOK_MS) {
      return Promise.resolve();
    }
    this.looking ??= this.forgetEnded().finally(() => {
      this.looking = undefined;
    });
    return this.looking;
  }

  private async forgetEnded(): Promise<void> {
    const { server } = this.finder;
    for (const session of this.sessions.values()) {
      if (session.server !== server) {
        this.sessions.delete(session.pid);
      }
    }
    const asked = [...this.sessions.values()];
    this.lookedAt = performance.now();
    try {
      const there = new Set(asked.length === 0 ? [] : await this.stillThere(asked));
      this.known = true;
      for (const session of asked) {
        if (!there.has(session.pid) && this.sessions.get(session.pid) === session) {
          this.sessions.delete(session.pid);
        }
      }
    } catch (error) {
      // A server without a free session is there.
      this.known = String((error as { code?: unknown }).code).startsWith('53');
    }
  }

  /** Over a connection of its own: those of the pool may all be taken. */
  private async stillThere(sessions: readonly GivenUp[]): Promise<number[]> {
    const place = await this.finder.find();
    const rows = await askServer<{ pid: number }>(place, 'taskwire sessions', ANSWER_MS, STILL_THERE, () => {
      const now = performance.now();
      return [sessions.map(({ pid }) => pid), sessions.map(({ at }) => (now - at) / 1_000)];
    });
    return rows.map(({ pid }) => pid);
  }
}
