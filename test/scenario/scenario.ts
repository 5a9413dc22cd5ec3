import { setTimeout as sleep } from 'node:timers/promises';
import { Account } from '../support/account.js';
import { eventually } from '../support/eventually.js';
import { type Job, random, Writer } from '../support/writers.js';
import { beginOf, drawActs, type Part } from './acts.js';
import { type Client, startClients } from './clients.js';
import { Ledger, NOTHING, readLog } from './ledger.js';
import { PatientWrites } from './patient-writes.js';
import { SqlWriter } from './sql-writer.js';
import { Stage } from './stage.js';

export interface ScenarioOptions {
  readonly seed: number;
  readonly clients: number;
  /** How long it takes at least. */
  readonly seconds: number;
  /** `both` when absent. */
  readonly part?: Part;
  readonly progress?: (line: string) => void;
}

export interface ScenarioReport {
  readonly seed: number;
  readonly seconds: number;
  readonly clients: number;
  /** What was done, and how long it took until every client was live again after it, in seconds. */
  readonly acts: ReadonlyArray<{ readonly act: string; readonly liveAfter: number }>;
  /** Writes over REST, each answered with 2xx in the end, and transactions of SQL. */
  readonly restWrites: number;
  readonly sqlWrites: number;
  /** Requests that were told to come later, and those that had no answer; they were repeated. */
  readonly turnedAway: number;
  readonly unanswered: number;
  readonly events: number;
  readonly deliveries: number;
  readonly connections: number;
  readonly replayed: number;
  /** Of here on everything is to be 0. */
  readonly lost: number;
  readonly twice: number;
  readonly outOfOrder: number;
  readonly unrecovered: number;
  readonly gaveUp: number;
  readonly strangeAnswers: number;
  /** Requests without an answer while an operator did what he does on purpose. */
  readonly unansweredOnPurpose: number;
  readonly crashed: number;
  readonly problems: readonly string[];
}

const REST_WRITERS = 4;
const SQL_WRITERS = 2;
/** What a writer waits after each write, in milliseconds: clients are what this is about. */
const PAUSE_MS = 40;
/** How many of the writes over REST are batches. */
const BATCHES = 0.05;
/** How long clients may need to be live again, and the last events to arrive, in milliseconds. */
const PATIENCE_MS = 90_000;
const KEPT_PROBLEMS = 40;
/** What SQL says when its server has gone, or is none that takes writes. */
const OUTAGE =
  /terminat|ECONN|connection|not queryable|starting up|shutting down|in recovery|read-only|closed|timeout/i;

/** The system with clients and writers while everything happens to it that happens to servers. */
class Scenario {
  private readonly next: () => number;
  private readonly ledger = new Ledger();
  private readonly rest: PatientWrites[] = [];
  private clients: Client[] = [];
  private writing = true;
  private readonly acts: Array<{ act: string; liveAfter: number }> = [];

  constructor(
    private readonly options: ScenarioOptions,
    private readonly stage: Stage,
  ) {
    this.next = random(options.seed);
  }

  async run(): Promise<ScenarioReport> {
    const start = performance.now();
    const { clients: count, seconds } = this.options;
    const { scene, url } = this.stage;
    this.clients = startClients({ url, count, scene, tokens: await this.makeTokens() });
    await this.everybodyLive();
    this.say(`${count} clients are live`);
    const writers = this.startWriters();
    const acts = drawActs(this.options.part ?? 'both', this.next);
    for (const [index, { name, planned, run }] of acts.entries()) {
      const wait = start + (seconds * 1_000 * (index + this.next())) / acts.length - performance.now();
      await sleep(Math.max(0, wait));
      this.say(name);
      this.ledger.act = { name: `${index + 1}. ${name}`, planned };
      await run(this.stage, this.next);
      const since = performance.now();
      await this.everybodyLive().catch((error: Error) => this.say(error.message));
      const liveAfter = Math.round(performance.now() - since) / 1_000;
      this.acts.push({ act: name, liveAfter });
      this.ledger.act = NOTHING;
      this.say(`  everybody was live ${liveAfter} s later; ${this.ledger.answered.length} writes over REST`);
    }
    this.writing = false;
    await writers;
    for (const writes of this.rest) {
      await writes.askAgain();
    }
    return this.report((performance.now() - start) / 1_000);
  }

  close(): void {
    this.writing = false;
    for (const { subscriber } of this.clients) {
      subscriber.close();
    }
  }

  /** Tokens for the pages whose EventSource sets no header, made by their users' keys. */
  private async makeTokens(): Promise<Map<string, string>> {
    const tokens = new Map<string, string>();
    for (const [userId, key] of this.stage.scene.keys) {
      const response = await fetch(`${this.stage.url}/api/tokens`, {
        method: 'POST',
        headers: { 'x-api-key': key, 'content-type': 'application/json' },
        body: JSON.stringify({ user: userId, expires_in: 86_400 }),
      });
      tokens.set(userId, ((await response.json()) as { token: string }).token);
    }
    return tokens;
  }

  private async startWriters(): Promise<void> {
    const { scene, url } = this.stage;
    const { seed } = this.options;
    const running: Array<Promise<void>> = [];
    for (let index = 0; index < REST_WRITERS; index += 1) {
      const writes = new PatientWrites(url, scene.serviceKey, `rest-${index}`, `127.0.9.${index + 1}`, this.ledger);
      this.rest.push(writes);
      const next = random(seed * 100 + index);
      const writer = new Writer(writes, scene.jobs, next);
      // One at least, and seldom more than ten.
      const some = (): Job[] => scene.jobs.filter((_, n) => n === 0 || next() < 0.1);
      running.push(this.repeat(() => (next() < BATCHES ? writes.createMany(some()) : writer.write())));
    }
    for (let index = 0; index < SQL_WRITERS; index += 1) {
      const next = random(seed * 100 + 50 + index);
      const writer = new SqlWriter(() => this.stage.primaryUrl, `sql-${index}`, scene.jobs, next, this.ledger);
      running.push(this.repeat(() => writer.write()).then(() => writer.stop()));
    }
    await Promise.all(running);
  }

  private async repeat(write: () => Promise<unknown>): Promise<void> {
    while (this.writing) {
      await write().catch((error: Error) => {
        if (!OUTAGE.test(error.message)) {
          this.ledger.strange.push(`during ${this.ledger.act.name}: ${error.message}`);
        }
      });
      await sleep(PAUSE_MS);
    }
  }

  private async everybodyLive(): Promise<void> {
    await eventually(
      () => {
        const away = this.clients.filter(({ subscriber }) => !subscriber.live).map(({ kind }) => kind);
        if (away.length > 0) {
          throw new Error(`${away.length} clients are not live: ${[...new Set(away)].join(', ')}`);
        }
      },
      { timeoutMs: PATIENCE_MS, intervalMs: 50 },
    );
  }

  private async report(seconds: number): Promise<ScenarioReport> {
    const problems: string[] = [];
    const { scene, instances, before } = this.stage;
    // Connections of before a failover are given up by the first statement.
    await eventually(() => scene.db.raw('SELECT 1'));
    const account = new Account(scene.db);
    const end = performance.now() + PATIENCE_MS;
    let lost = 0;
    for (const { kind, subscriber } of this.clients) {
      try {
        await account.settle(subscriber, Math.max(1, end - performance.now()));
        await account.compareState(subscriber);
      } catch (error) {
        lost += subscriber.violations.length === 0 ? 1 : 0;
        problems.push(`${kind}: ${(error as Error).message}`);
      }
    }
    const gaveUp = this.clients.filter(({ subscriber }) => !subscriber.live);
    const log = await readLog(scene.db);
    const writes = this.ledger.compare(log);
    const violations = this.clients.flatMap(({ subscriber }) => subscriber.violations);
    const copies = violations.filter((text) => text.startsWith('copy'));
    const onPurpose = this.ledger.setbacks.filter(({ act, setback }) => setback === 'unanswered' && act.planned);
    const crashes = [...before, ...instances].flatMap(({ crashes: lines }) =>
      lines.map((line) => JSON.stringify(line)),
    );
    for (const instance of instances) {
      // What the last act did to it is told for some seconds more.
      await eventually(
        async () => {
          const { status, body } = await instance.get('/api/ws/health');
          if (status !== 200 || body.status !== 'healthy') {
            throw new Error(`an instance says ${status} ${JSON.stringify(body)}`);
          }
        },
        { timeoutMs: PATIENCE_MS, intervalMs: 50 },
      ).catch((error: Error) => crashes.push(error.message));
    }
    const sum = (figure: (client: Client) => number): number =>
      this.clients.reduce((total, client) => total + figure(client), 0);
    return {
      seed: this.options.seed,
      seconds: Math.round(seconds),
      clients: this.clients.length,
      acts: this.acts,
      restWrites: this.ledger.answered.length,
      sqlWrites: this.ledger.sql.length,
      turnedAway: this.ledger.count('turned away'),
      unanswered: this.ledger.count('unanswered'),
      events: log.length,
      deliveries: sum(({ subscriber }) => subscriber.received),
      connections: sum(({ subscriber }) => subscriber.connections),
      replayed: sum(({ subscriber }) => subscriber.replayed),
      lost: lost + writes.lost.length,
      twice: copies.length + writes.twice.length,
      outOfOrder: violations.length - copies.length,
      unrecovered: sum(({ subscriber }) => subscriber.unrecovered),
      gaveUp: gaveUp.length,
      strangeAnswers: this.ledger.strange.length,
      unansweredOnPurpose: onPurpose.length,
      crashed: crashes.length,
      problems: [
        ...gaveUp.map(({ kind, subscriber }) => `${kind} gave up: ${JSON.stringify(subscriber.refusals.slice(-5))}`),
        ...onPurpose.map(({ act, reason }) => `during ${act.name}: ${reason}`),
        ...this.ledger.strange,
        ...writes.lost,
        ...writes.twice,
        ...crashes,
        ...violations,
        ...this.clients.flatMap(({ kind, subscriber }) =>
          subscriber.unrecoveredRooms.map((room) => `${kind}: ${room}`),
        ),
        ...problems,
      ].slice(0, KEPT_PROBLEMS),
    };
  }

  private say(line: string): void {
    this.options.progress?.(line);
  }
}

/** Runs the scenario and gives account of it. */
export async function runScenario(options: ScenarioOptions): Promise<ScenarioReport> {
  const stage = await Stage.start(beginOf(options.part ?? 'both'));
  const scenario = new Scenario(options, stage);
  try {
    return await scenario.run();
  } finally {
    scenario.close();
    await stage.stop();
  }
}
