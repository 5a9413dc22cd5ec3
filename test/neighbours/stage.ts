import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Knex } from 'knex';
import { connectDatabase } from '../../src/database/connect-database.js';
import { ApiKeyRepository } from '../../src/repository/api-key-repository.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import { eventually } from '../support/eventually.js';
import { Instance } from '../support/instance.js';
import { type PostgresServer, startPostgres } from '../support/postgres.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { type Attack, loadAttack, newOutcome, type Outcome, type Target } from './attack.js';
import { holderOf } from './sockets.js';
import type { VictimReport, VictimTarget } from './victim.js';

/** Jobs of an attacker: more than one message may ask for. */
const JOBS = 300;
/** Of the victim, which asks as often as it can. */
const VICTIM_RATE = 1_000_000;
const LOOPING = new URL('../support/looping-worker.js', import.meta.url).href;
const CLOCK_TICKS = 100;
const PREPARED_MS = 120_000;

/** A service with an honest user and those who attack it, each a process of its own. Limits are the defaults. */
export class Stage {
  private victim: ChildProcess | undefined;
  private victimPorts: readonly number[] = [];
  private attackers = 0;
  private made: Promise<unknown> = Promise.resolve();

  private constructor(
    private readonly postgres: PostgresServer,
    private readonly redis: RedisServer,
    readonly instance: Instance,
    private readonly databaseUrl: string,
    private readonly db: Knex,
    private readonly victimTarget: VictimTarget,
  ) {}

  /** @param hangs whether there are three workers, which loop for ever when they get SIGUSR2 */
  static async make({ hangs = false }: { readonly hangs?: boolean } = {}): Promise<Stage> {
    const [postgres, redis] = await Promise.all([startPostgres(), startRedis()]);
    const databaseUrl = await postgres.createDatabase();
    const db = connectDatabase({ url: databaseUrl, pool: 4 });
    const { key } = await new ApiKeyRepository(db).create({ owner: 'good', rate_limit: VICTIM_RATE });
    await new JobRepository(db).create({ job_id: '1', user_id: 'good' });
    const instance = await Instance.start({
      workers: hangs ? 3 : 2,
      ...(hangs ? { preload: LOOPING } : {}),
      // As many connections of an address as by default, and not as many as other tests want.
      env: { DATABASE_URL: databaseUrl, REDIS_URL: redis.url, MAX_CONNECTIONS_PER_IP: undefined },
    });
    return new Stage(postgres, redis, instance, databaseUrl, db, { port: instance.port, key, job: '1' });
  }

  /** Starts the honest user; resolves when it is connected. */
  async startVictim(): Promise<void> {
    const child = fork(script('victim.js'), [JSON.stringify(this.victimTarget)], { stdio: 'inherit' });
    this.victim = child;
    const [ports] = (await once(child, 'message')) as [number[]];
    this.victimPorts = ports;
  }

  /** What the honest user has seen since it was asked the last time. */
  async report(): Promise<VictimReport> {
    const { victim } = this;
    if (victim === undefined || !victim.connected) {
      throw new Error('there is no victim');
    }
    const answer = once(victim, 'message');
    victim.send('report');
    const [report] = (await answer) as [VictimReport];
    return report;
  }

  /** Starts an attack, with a user, a key and an address of its own; resolves when it has begun. */
  async attack(name: string): Promise<RunningAttack> {
    const attack = await loadAttack(name);
    this.attackers += 1;
    const number = this.attackers;
    const owner = `bad_${number}`;
    // One after the other: there are few connections to the database here.
    const made = this.made.then(() => this.makeUser(owner, number, attack));
    this.made = made.catch(() => {});
    const { key, jobs, tasks } = await made;
    const busy = this.victimPorts.map((port) => holderOf(this.instance.port, port, [...this.instance.workers]));
    const target: Target = {
      port: this.instance.port,
      key,
      owner,
      jobs,
      tasks,
      address: `127.0.${number}.1`,
      databaseUrl: this.databaseUrl,
      workers: [...this.instance.workers].filter((pid) => !busy.includes(pid)),
    };
    const running = new RunningAttack(name, attack, target);
    await running.begun;
    return running;
  }

  /** Processor time of primary and workers so far, in milliseconds. */
  processorMs(): number {
    return [this.instance.pid, ...this.instance.workers].reduce((sum, pid) => sum + processorMs(pid), 0);
  }

  /** The most memory that one of the workers, or the primary, has had, in MB. */
  peakMb(): number {
    return Math.max(...[this.instance.pid, ...this.instance.workers].map(peakMb));
  }

  async stop(): Promise<void> {
    this.victim?.kill();
    await this.instance.kill();
    await this.db.destroy();
    await Promise.all([this.redis.kill(), this.postgres.stop()]);
  }

  private async makeUser(
    owner: string,
    number: number,
    { role = 'user', rateLimit }: Attack,
  ): Promise<Pick<Target, 'key' | 'jobs' | 'tasks'>> {
    const { key } = await new ApiKeyRepository(this.db).create({
      owner,
      role,
      ...(rateLimit === undefined ? {} : { rate_limit: rateLimit }),
    });
    const jobs = Array.from({ length: JOBS }, (_, n) => String(number * 10_000 + n));
    await this.db.raw('INSERT INTO jobs (job_id, user_id) SELECT unnest(?::numeric[]), ?', [jobs, owner]);
    const { rows } = await this.db.raw(
      `INSERT INTO tasks (job_id, user_id, task_definition_id, is_imua, task_status, created_at)
       SELECT job_id, user_id, 1, false, 'pending', now() FROM jobs WHERE user_id = ? ORDER BY job_id
       RETURNING task_id`,
      [owner],
    );
    return { key, jobs, tasks: (rows as Array<{ task_id: string }>).map(({ task_id }) => Number(task_id)) };
  }
}

/** An attacker at work. */
export class RunningAttack {
  outcome: Outcome = newOutcome();
  startedAt = performance.now();
  /** Resolves when it has begun. */
  readonly begun: Promise<void>;
  private readonly child: ChildProcess;

  constructor(
    name: string,
    readonly attack: Attack,
    target: Target,
  ) {
    this.child = fork(script('attacker.js'), [name, JSON.stringify(target)], { stdio: 'inherit' });
    this.begun = new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`${name} is not prepared`)), PREPARED_MS);
      this.child.once('exit', () => reject(new Error(`${name} ended before it began`)));
      this.child.on('message', (message: Outcome | 'ready') => {
        if (message === 'ready') {
          clearTimeout(timer);
          this.startedAt = performance.now();
          resolve();
        } else {
          this.outcome = message;
        }
      });
    });
  }

  get seconds(): number {
    return (performance.now() - this.startedAt) / 1_000;
  }

  /** Resolves when the attacker was slowed, refused or closed as it should be. */
  defeated(): Promise<void> {
    return eventually(() => this.attack.verify(this.outcome, this.seconds), { timeoutMs: 90_000, intervalMs: 200 });
  }

  async stop(): Promise<void> {
    if (this.child.exitCode === null && this.child.connected) {
      const exited = once(this.child, 'exit');
      this.child.send('stop');
      await exited;
    }
  }
}

const script = (name: string): string => fileURLToPath(new URL(name, import.meta.url));

function processorMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
  return ((Number(fields[11]) + Number(fields[12])) * 1_000) / CLOCK_TICKS;
}

function peakMb(pid: number): number {
  return Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) / 1_024;
}
