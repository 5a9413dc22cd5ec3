import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { ApiKeyRepository } from '../../src/repository/api-key-repository.js';
import { connectDatabase } from '../../src/repository/connect-database.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { eventually } from '../support/eventually.js';
import { Instance } from '../support/instance.js';
import { type PostgresServer, startPostgres } from '../support/postgres.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { type Attack, loadAttack, newOutcome, type Outcome, type Target } from './attack.js';
import type { VictimReport, VictimTarget } from './victim.js';

/** Jobs of the attacker: more than one message may ask for. */
const JOBS = 300;
/** Of the victim, which asks as often as it can. */
const VICTIM_RATE = 1_000_000;
const CLOCK_TICKS = 100;

export interface StageOptions {
  /** Variables of the instance. The limits are the defaults unless they stand here. */
  readonly env?: Readonly<Record<string, string>>;
}

/** A service with an honest user and somebody who attacks it, each a process of its own. */
export class Stage {
  private victim: ChildProcess | undefined;
  private lastAddress = 1;

  private constructor(
    private readonly postgres: PostgresServer,
    private readonly redis: RedisServer,
    readonly instance: Instance,
    private readonly databaseUrl: string,
    private readonly victimTarget: VictimTarget,
    private readonly attackerKeys: readonly string[],
    private readonly jobs: readonly string[],
  ) {}

  static async make({ env = {} }: StageOptions = {}): Promise<Stage> {
    const [postgres, redis] = await Promise.all([startPostgres(), startRedis()]);
    const databaseUrl = await postgres.createDatabase();
    const db = connectDatabase({ url: databaseUrl, pool: 4 });
    const keys = new ApiKeyRepository(db);
    const jobs = new JobRepository(db);
    const tasks = new TaskRepository(db);
    const good = await keys.create({ owner: 'good', rate_limit: VICTIM_RATE });
    await jobs.create({ job_id: '1', user_id: 'good' });
    const attackers: string[] = [];
    const names: string[] = [];
    for (let n = 0; n < 16; n += 1) {
      attackers.push((await keys.create({ owner: 'bad' })).key);
    }
    for (let n = 0; n < JOBS; n += 1) {
      const id = String(1_000 + n);
      await jobs.create({ job_id: id, user_id: 'bad' });
      names.push(id);
    }
    await tasks.createManyTaskData(
      'bad',
      names.map((job_id) => ({ job_id, task_definition_id: 1 })),
    );
    await db.destroy();
    const instance = await Instance.start({
      workers: 2,
      env: {
        DATABASE_URL: databaseUrl,
        REDIS_URL: redis.url,
        // As many as by default, and not as many as other tests want.
        MAX_CONNECTIONS_PER_IP: undefined,
        ...env,
      },
    });
    return new Stage(
      postgres,
      redis,
      instance,
      databaseUrl,
      { port: instance.port, key: good.key, job: '1' },
      attackers,
      names,
    );
  }

  /** Starts the honest user; resolves when it is connected. */
  async startVictim(): Promise<void> {
    const child = fork(script('victim.js'), [JSON.stringify(this.victimTarget)], { stdio: 'inherit' });
    this.victim = child;
    await once(child, 'message');
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

  /** Starts an attack from an address and with a key that nobody has used before. */
  async attack(name: string): Promise<RunningAttack> {
    const attack = await loadAttack(name);
    this.lastAddress += 1;
    const target: Target = {
      port: this.instance.port,
      key: this.attackerKeys[this.lastAddress % this.attackerKeys.length]!,
      jobs: this.jobs,
      address: `127.0.0.${this.lastAddress}`,
      databaseUrl: this.databaseUrl,
      workers: [...this.instance.workers],
    };
    return new RunningAttack(name, attack, target);
  }

  /** Processor time of all workers so far, in milliseconds. */
  processorMs(): number {
    return [...this.instance.workers].reduce((sum, pid) => sum + processorMs(pid), 0);
  }

  async stop(): Promise<void> {
    this.victim?.kill();
    await this.instance.kill();
    await Promise.all([this.redis.kill(), this.postgres.stop()]);
  }
}

/** An attacker at work. */
export class RunningAttack {
  outcome: Outcome = newOutcome();
  readonly startedAt = performance.now();
  private readonly child: ChildProcess;

  constructor(
    name: string,
    readonly attack: Attack,
    target: Target,
  ) {
    this.child = fork(script('attacker.js'), [name, JSON.stringify(target)], { stdio: 'inherit' });
    this.child.on('message', (outcome: Outcome) => {
      this.outcome = outcome;
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
