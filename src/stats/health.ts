import { setTimeout as sleep } from 'node:timers/promises';
import { SingleFlight } from '../base/single-flight.js';
import type { BrokerState } from '../broker/broker.js';
import type { ClusterReport } from './cluster-stats.js';

/** Whether this worker takes work. */
export type Readiness = 'starting' | 'ready' | 'draining';

/** What is told of the cluster. */
type Totals = Pick<ClusterReport, 'clients' | 'totalRooms' | 'partial'>;

export interface HealthOptions {
  /** Any quick query; rejects when the database does not serve. */
  readonly probeDatabase: () => Promise<unknown>;
  /** Trouble that recent queries have met, and that a probe does not show. */
  readonly databaseTrouble?: () => Trouble | undefined;
  readonly brokerState: () => BrokerState;
  readonly readiness: () => Readiness;
  readonly collect: () => Promise<Totals>;
  /** A probe that takes longer, in milliseconds, counts as failed (1,000). */
  readonly probeMs?: number;
  /** Milliseconds since any fixed moment. */
  readonly now?: () => number;
}

type State = 'up' | 'down';
/**
 * `failing`: the database answers, and other queries fail. `read-only`: it refuses writes. `busy`: all connections of this
 * worker to it are in use.
 */
export type DatabaseState = State | 'failing' | 'read-only' | 'busy';

/** Trouble of some kinds of queries. */
export interface Trouble {
  readonly status: 'down' | 'failing' | 'read-only' | 'busy';
  readonly pools: ReadonlyArray<keyof typeof LOST_IN>;
}

/** What does not work while the queries of a pool fail, in words. */
const LOST_IN = {
  writes: 'writes fail',
  reads: 'pages, snapshots and replays fail',
  lookups: 'keys and rooms cannot be looked up',
} as const;

/** What does not work while the database is in a state, in words. */
function lostBy(state: DatabaseState, trouble: Trouble | undefined): readonly string[] {
  switch (state) {
    case 'failing':
      return trouble?.pools.map((pool) => LOST_IN[pool]) ?? [];
    case 'read-only':
      return ['writes are refused'];
    case 'busy':
      return ['requests wait for connections to the database'];
    default:
      return [];
  }
}

export interface HealthReport {
  readonly status: 'healthy' | 'degraded' | 'starting' | 'draining';
  /** Seconds since 1970. */
  readonly timestamp: number;
  readonly websocket: { readonly active_connections: number; readonly active_rooms: number };
  readonly components: { readonly database: DatabaseState; readonly broker: BrokerState['status'] };
  /** What does not work meanwhile, in words; absent when all is well. */
  readonly lost?: readonly string[];
  /** Whether a worker is missing in the numbers. */
  readonly partial: boolean;
}

interface Finding {
  readonly database: State;
  readonly report: Totals;
  readonly until: number;
}

const PROBE_MS = 1_000;
/** Anybody may ask, so a result is used again for so long, in milliseconds. */
const CACHE_MS = 1_000;

/** Whether the service works, for load balancers and people. */
export class Health {
  private readonly now: () => number;
  private finding: Finding | undefined;
  private readonly examinations = new SingleFlight<Finding>();
  private probe: Promise<State> | undefined;

  constructor(private readonly options: HealthOptions) {
    this.now = options.now ?? (() => performance.now());
  }

  /** Takes at most a little more than a second; never rejects. */
  async report(): Promise<HealthReport> {
    // The state at the time of the question: a worker that is replaced meanwhile still says that the service works.
    const readiness = this.options.readiness();
    const { database: answers, report } = await this.find();
    const { status: broker, lost: lostByBroker } = this.options.brokerState();
    const trouble = answers === 'up' ? this.options.databaseTrouble?.() : undefined;
    // The database answers here: what is down for others of its queries is not all of it.
    const database = trouble?.status === 'down' ? 'failing' : (trouble?.status ?? answers);
    const lost = [...lostBy(database, trouble), ...lostByBroker];
    const whole = database === 'up' && broker === 'up';
    return {
      status: readiness === 'ready' ? (whole ? 'healthy' : 'degraded') : readiness,
      timestamp: Math.floor(Date.now() / 1_000),
      websocket: { active_connections: report.clients, active_rooms: report.totalRooms },
      components: { database, broker },
      ...(lost.length === 0 ? {} : { lost }),
      partial: report.partial,
    };
  }

  private async find(): Promise<Finding> {
    return this.finding !== undefined && this.now() < this.finding.until
      ? this.finding
      : this.examinations.run('', () => this.examine());
  }

  private async examine(): Promise<Finding> {
    const [database, report] = await Promise.all([this.database(), this.options.collect()]);
    this.finding = { database, report, until: this.now() + CACHE_MS };
    return this.finding;
  }

  /** One probe at a time, however long it takes: a database that hangs gets no further ones. */
  private async database(): Promise<State> {
    this.probe ??= this.options
      .probeDatabase()
      .then(
        () => 'up' as const,
        () => 'down' as const,
      )
      .finally(() => {
        this.probe = undefined;
      });
    const patience = new AbortController();
    const late = sleep(this.options.probeMs ?? PROBE_MS, 'down' as const, { signal: patience.signal });
    // The timer is cleared below when the probe was quicker.
    late.catch(() => {});
    try {
      return await Promise.race([this.probe, late]);
    } finally {
      patience.abort();
    }
  }
}
