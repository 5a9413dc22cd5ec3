import { setTimeout as sleep } from 'node:timers/promises';
import { EventLog } from '../../src/repository/event-log.js';
import { Account } from '../support/account.js';
import { Contents } from '../support/contents.js';
import { eventually } from '../support/eventually.js';
import { Instance, type InstanceOptions } from '../support/instance.js';
import { type PostgresServer, startPostgres } from '../support/postgres.js';
import { Scene } from '../support/scene.js';
import { Subscriber, type Wire } from '../support/subscriber.js';
import { startTcpProxy, type TcpProxy } from '../support/tcp-proxy.js';
import { random } from '../support/writers.js';
import { type Load, PlainLoad } from './load.js';
import { MixedLoad } from './mixed-load.js';
import {
  delay,
  outage,
  REDIS_FAULTS,
  type RedisFault,
  type RedisKind,
  type RedisSide,
  startRedisSide,
} from './redis-side.js';

export interface FaultRunOptions {
  readonly seed: number;
  readonly instances: number;
  readonly workers: number;
  readonly subscribers: number;
  /** Writes that have to be answered well. */
  readonly writes: number;
  /** How many faults are drawn, or which ones there are, in their order. */
  readonly faults: number | readonly FaultKind[];
  /** Who writes (`plain`): REST and the repository to tasks of their own, or `mixed`, all kinds of writers to shared tasks. */
  readonly load?: LoadKind;
  /** Users, and jobs of each (5 and 10). */
  readonly users?: number;
  readonly jobsPerUser?: number;
  readonly preload?: string;
  /** What there is of Redis (`server`). */
  readonly redis?: RedisKind;
  /** Only faults of these kinds. */
  readonly kinds?: readonly FaultKind[];
  /** How long the last events may take to arrive, in milliseconds (60,000). */
  readonly patienceMs?: number;
  readonly progress?: (line: string) => void;
}

export interface FaultReport {
  readonly seed: number;
  readonly seconds: number;
  readonly faults: Readonly<Record<string, number>>;
  /** Writes that were answered well, and those that were not; of the latter nobody knows whether they were committed. */
  readonly writes: number;
  readonly failedWrites: number;
  readonly events: number;
  readonly deliveries: number;
  readonly connections: number;
  readonly replayed: number;
  /** What the load found wrong with the log, and what did not reach somebody. */
  readonly lost: number;
  readonly duplicated: number;
  readonly outOfOrder: number;
  /** SUBSCRIBEs with a position that could not be served from it. */
  readonly unrecovered: number;
  /** Workers and instances that ended though nobody killed them. */
  readonly crashed: number;
  /** What the load tells of itself. */
  readonly load: Readonly<Record<string, number>>;
  readonly problems: readonly string[];
}

/** Who writes, and by which doors they are heard. */
const LOADS = {
  plain: { Writers: PlainLoad, wires: ['websocket', 'socket.io'] },
  mixed: { Writers: MixedLoad, wires: ['websocket', 'socket.io', 'sse'] },
} as const satisfies Record<string, { Writers: unknown; wires: readonly Wire[] }>;
export type LoadKind = keyof typeof LOADS;
export const LOAD_KINDS = Object.keys(LOADS) as readonly LoadKind[];

const USERS = 5;
const JOBS_PER_USER = 10;
/** What a writer waits that is ahead of the faults, in milliseconds. */
const PACE_MS = 50;
const KEPT_PROBLEMS = 20;

/** Faults of everything but Redis, before and after those of Redis. */
const BEFORE = ['kill a worker'] as const;
const AFTER = [
  'cut Postgres',
  'delay Postgres',
  'black-hole Postgres',
  'restart Postgres',
  'replace workers (SIGHUP)',
  'kill and replace an instance',
  'cut clients',
] as const;
export type FaultKind = (typeof BEFORE)[number] | RedisFault | (typeof AFTER)[number];

/** In this order: a seed draws the same ones again. */
const faultsOf = (redis: RedisKind): readonly FaultKind[] => [...BEFORE, ...REDIS_FAULTS[redis], ...AFTER];

const isRedisFault = (kind: FaultKind): kind is RedisFault =>
  Object.values<readonly FaultKind[]>(REDIS_FAULTS).some((faults) => faults.includes(kind));

/** The whole system with writers and subscribers, and hands that break it. */
class FaultRun {
  private readonly next: () => number;
  private readonly instances: Instance[] = [];
  /** Those that were killed and replaced. */
  private readonly replaced: Instance[] = [];
  private readonly subscribers: Subscriber[] = [];
  private readonly done = new Map<string, number>();
  private readonly load: Load;
  /** What everybody was told; only where several doors are compared. */
  private readonly contents: Contents | undefined;
  private readonly wires: readonly Wire[];
  private writing = true;

  private constructor(
    private readonly options: FaultRunOptions,
    private readonly postgres: PostgresServer,
    private readonly redis: RedisSide,
    private readonly toPostgres: TcpProxy,
    private readonly scene: Scene,
    private readonly databaseUrl: string,
  ) {
    this.next = random(options.seed);
    const { Writers, wires } = LOADS[options.load ?? 'plain'];
    this.wires = wires;
    this.contents = options.load === 'mixed' ? new Contents() : undefined;
    this.load = new Writers({
      seed: options.seed,
      scene,
      proxiedUrl: this.proxied,
      databaseUrl,
      redis: redis.settings,
      urls: () => this.instances.map(({ url }) => url),
      pace: () => this.pace(),
    });
  }

  static async run(options: FaultRunOptions): Promise<FaultReport> {
    const settings = { track_commit_timestamp: 'on', deadlock_timeout: '200ms' };
    const [postgres, redis] = await Promise.all([startPostgres(settings), startRedisSide(options.redis ?? 'server')]);
    const databaseUrl = await postgres.createDatabase();
    const toPostgres = await startTcpProxy(postgres);
    const { users = USERS, jobsPerUser = JOBS_PER_USER } = options;
    const scene = await Scene.make(databaseUrl, { users, jobsPerUser });
    const run = new FaultRun(options, postgres, redis, toPostgres, scene, databaseUrl);
    try {
      return await run.all();
    } finally {
      run.writing = false;
      for (const subscriber of run.subscribers) {
        subscriber.close();
      }
      await Promise.all(run.instances.map((instance) => instance.kill()));
      await scene.close();
      await toPostgres.stop();
      await Promise.all([postgres.stop(), redis.stop()]);
    }
  }

  private async all(): Promise<FaultReport> {
    const start = performance.now();
    const { instances, workers, subscribers } = this.options;
    await this.load.prepare();
    this.instances.push(...(await Promise.all(Array.from({ length: instances }, () => Instance.start(this.settings)))));
    for (let index = 0; index < subscribers; index += 1) {
      this.subscribers.push(this.subscriber(index));
    }
    await this.everybodyLive();
    this.say(`${instances} instances of ${workers} workers, ${subscribers} subscribers are live`);

    const written = this.load.run();
    for (let count = 0; count < this.faultCount; count += 1) {
      await this.fault(count);
    }
    await eventually(
      () => {
        if (this.load.written < this.options.writes) {
          throw new Error(`only ${this.load.written} writes`);
        }
      },
      { timeoutMs: 3_600_000, intervalMs: 100 },
    );
    this.writing = false;
    await written;
    this.say(`${this.load.written} writes, ${this.faultCount} faults; waiting for the last events`);
    return this.report((performance.now() - start) / 1_000);
  }

  private get faultCount(): number {
    const { faults } = this.options;
    return typeof faults === 'number' ? faults : faults.length;
  }

  /** Load goes on until the last fault, but is not more than asked for by much. */
  private async pace(): Promise<boolean> {
    const share = Math.max(1, this.options.writes / Math.max(1, this.faultCount));
    while (this.faultsDone < this.faultCount && this.load.written > (this.faultsDone + 1) * share) {
      await sleep(PACE_MS);
    }
    return this.writing;
  }

  private get settings(): InstanceOptions {
    const { workers, preload } = this.options;
    return {
      workers,
      ...(preload === undefined ? {} : { preload }),
      env: {
        DATABASE_URL: this.proxied,
        ...this.redis.env,
        API_KEY_CACHE_MS: '2000',
        LOG_LEVEL: 'info',
      },
    };
  }

  private get proxied(): string {
    const url = new URL(this.databaseUrl);
    url.hostname = '127.0.0.1';
    url.port = String(this.toPostgres.port);
    return url.href;
  }

  private subscriber(index: number): Subscriber {
    const user = `user_${(index % this.scene.keys.size) + 1}`;
    const wire = this.wires[index % this.wires.length]!;
    const jobs = this.scene.jobs.filter(({ userId }) => userId === user);
    const rooms = new Set<string>();
    for (let room = 0; room < 3; room += 1) {
      rooms.add(`job:${this.pick(jobs).jobId}`);
    }
    if (index % 4 === 0) {
      rooms.add(`user:${user}`);
    }
    // A stream over HTTP is one room.
    const wanted = [...rooms].slice(wire === 'sse' ? -1 : 0);
    const url = this.instances[index % this.instances.length]!.url;
    return new Subscriber(wire, url, this.scene.keys.get(user)!, wanted, { contents: this.contents });
  }

  private get faultsDone(): number {
    return [...this.done.values()].reduce((sum, count) => sum + count, 0);
  }

  private async fault(count: number): Promise<void> {
    const { faults, kinds, redis = 'server' } = this.options;
    const kind = typeof faults === 'number' ? this.pick(kinds ?? faultsOf(redis)) : faults[count]!;
    await sleep(this.next() * 1_000);
    this.say(`fault ${this.faultsDone + 1}: ${kind} (${this.load.written} writes)`);
    await this.inflict(kind);
    this.done.set(kind, (this.done.get(kind) ?? 0) + 1);
  }

  private async inflict(kind: FaultKind): Promise<void> {
    const instance = this.pick(this.instances);
    if (isRedisFault(kind)) {
      await this.redis.inflict(kind, this.next);
      return;
    }
    switch (kind) {
      case 'kill a worker':
        instance.killWorker(Math.floor(this.next() * instance.workers.size));
        await instance.ready(1);
        break;
      case 'cut Postgres':
        await outage(this.toPostgres, 'refuse', this.next);
        break;
      case 'delay Postgres':
        await delay(this.toPostgres, this.next);
        break;
      case 'black-hole Postgres':
        await outage(this.toPostgres, 'blackhole', this.next);
        break;
      case 'restart Postgres':
        await this.postgres.restart('immediate');
        break;
      case 'replace workers (SIGHUP)':
        instance.signal('SIGHUP');
        await sleep(this.next() * 3_000);
        break;
      case 'kill and replace an instance':
        await instance.kill();
        this.replaced.push(instance);
        await sleep(this.next() * 1_000);
        this.instances[this.instances.indexOf(instance)] = await Instance.start({
          ...this.settings,
          port: instance.port,
        });
        break;
      case 'cut clients':
        for (const subscriber of this.subscribers) {
          if (this.next() < 0.3) {
            subscriber.drop();
          }
        }
        break;
    }
  }

  private async everybodyLive(): Promise<void> {
    await eventually(
      () => {
        const missing = this.subscribers.filter(({ live }) => !live).length;
        if (missing > 0) {
          throw new Error(`${missing} subscribers are not live`);
        }
      },
      { timeoutMs: 60_000, intervalMs: 50 },
    );
  }

  private async report(seconds: number): Promise<FaultReport> {
    const problems: string[] = [];
    const account = new Account(this.scene.db);
    let lost = 0;
    const end = performance.now() + (this.options.patienceMs ?? 60_000);
    for (const subscriber of this.subscribers) {
      try {
        await account.settle(subscriber, Math.max(1, end - performance.now()));
        await account.compareState(subscriber);
      } catch (error) {
        lost += subscriber.violations.length === 0 ? 1 : 0;
        problems.push((error as Error).message);
      }
    }
    const crashes = [
      ...[...this.instances, ...this.replaced].flatMap((instance) =>
        instance.crashes.map((line) => JSON.stringify(line)),
      ),
      ...this.instances.filter(({ ended }) => ended).map(({ exitCode }) => `an instance ended with ${exitCode}`),
    ];
    const wrong = await this.load.problems();
    wrong.push(...((await this.contents?.wrong(new EventLog(this.scene.db), [...this.scene.keys.keys()])) ?? []));
    problems.push(...wrong);
    const violations = this.subscribers.flatMap((subscriber) => subscriber.violations);
    const { rows } = (await this.scene.db.raw('SELECT count(*) AS count FROM task_events')) as {
      rows: Array<{ count: string }>;
    };
    const sum = (figure: (subscriber: Subscriber) => number): number =>
      this.subscribers.reduce((total, subscriber) => total + figure(subscriber), 0);
    return {
      seed: this.options.seed,
      seconds: Math.round(seconds),
      faults: Object.fromEntries(this.done),
      writes: this.load.written,
      failedWrites: this.load.failed,
      events: Number(rows[0]!.count),
      deliveries: sum(({ received }) => received),
      connections: sum(({ connections }) => connections),
      replayed: sum(({ replayed }) => replayed),
      lost: lost + wrong.length,
      duplicated: violations.filter((text) => text.startsWith('copy')).length,
      outOfOrder: violations.filter((text) => !text.startsWith('copy')).length,
      unrecovered: sum(({ unrecovered }) => unrecovered),
      crashed: crashes.length,
      load: this.load.figures ?? {},
      problems: [
        ...violations,
        ...crashes,
        ...problems,
        ...this.subscribers.flatMap((subscriber) => subscriber.unrecoveredRooms),
      ].slice(0, KEPT_PROBLEMS),
    };
  }

  private pick<T>(items: readonly T[]): T {
    return items[Math.floor(this.next() * items.length)]!;
  }

  private say(line: string): void {
    this.options.progress?.(line);
  }
}

/** Runs the system while it is being broken, and gives account of what arrived. */
export const runFaults = (options: FaultRunOptions): Promise<FaultReport> => FaultRun.run(options);
