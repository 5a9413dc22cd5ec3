import { Agent, request } from 'node:http';
import type { Knex } from 'knex';
import { Publisher } from '../../src/broker/publisher.js';
import { RedisBroker } from '../../src/broker/redis/redis-broker.js';
import { connectDatabase } from '../../src/database/connect-database.js';
import { preparedQuery } from '../../src/database/query.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { freePort } from '../../test/support/programs.js';
import { pin, pinSelf } from '../lib/machine.js';
import { quiet } from '../lib/quiet.js';
import { type Services, servicesCpu } from '../lib/services.js';
import { quantile } from '../lib/stats.js';
import type { World } from '../lib/world.js';
import type { Context, Outcome, Scenario, Subject } from './context.js';

/** One way of writing: by writer and count. Resolves when it is committed. */
type Write = (writer: number, count: number) => Promise<unknown>;

interface Way {
  readonly name: string;
  readonly write: Write;
  readonly writers: number;
  /** Events of one call. */
  readonly events?: number;
}

/** The variants take turns of this length, so that other work of the machine disturbs all of them alike. */
const TURN_MS = 400;
const MOST_WRITERS = 64;
const BATCH = 50;

class Clocked {
  private readonly latencies: number[] = [];
  private busyMs = 0;
  /** Processor time of the services, in microseconds. */
  private cpu = { redis: 0, postgres: 0 };

  constructor(
    private readonly way: Way,
    private readonly services: Services,
  ) {}

  async turn(ms: number): Promise<void> {
    const { write, writers } = this.way;
    const before = servicesCpu(this.services);
    const start = performance.now();
    await Promise.all(
      Array.from({ length: writers }, async (_, writer) => {
        for (let count = 0; performance.now() - start < ms; count += 1) {
          const from = performance.now();
          await write(writer, count);
          this.latencies.push(performance.now() - from);
        }
      }),
    );
    this.busyMs += performance.now() - start;
    const after = servicesCpu(this.services);
    this.cpu.redis += after.redis - before.redis;
    this.cpu.postgres += after.postgres - before.postgres;
  }

  forget(): void {
    this.latencies.length = 0;
    this.busyMs = 0;
    this.cpu = { redis: 0, postgres: 0 };
  }

  get figures(): Record<string, number> {
    const { name, events = 1 } = this.way;
    const sorted = Float64Array.from(this.latencies).sort();
    return {
      [`${name}_per_s`]: (sorted.length * events * 1_000) / this.busyMs,
      [`${name}_mean_ms`]: sorted.reduce((sum, ms) => sum + ms, 0) / sorted.length,
      [`${name}_p50_ms`]: quantile(sorted, 0.5),
      [`${name}_p99_ms`]: quantile(sorted, 0.99),
      [`${name}_redis_cpu_us`]: this.cpu.redis / (sorted.length * events),
      [`${name}_postgres_cpu_us`]: this.cpu.postgres / (sorted.length * events),
    };
  }
}

/** Has ways take turns and gives the figures of each. */
async function sideBySide(context: Context, ways: readonly Way[]): Promise<Record<string, number>> {
  const clocked = ways.map((way) => new Clocked(way, context.services));
  const turns = context.size(8, 1);
  for (const clock of clocked) {
    await clock.turn(context.size(TURN_MS, 50));
    clock.forget();
  }
  for (let turn = 0; turn < turns; turn += 1) {
    for (const clock of clocked) {
      await clock.turn(context.size(TURN_MS, 50));
    }
  }
  return Object.assign({}, ...clocked.map(({ figures }) => figures)) as Record<string, number>;
}

const statusOf = (count: number): string => (count % 2 === 0 ? 'processing' : 'completed');

const ratio = (figures: Record<string, number>, name: string, of: string, to: string): void => {
  figures[name] = figures[of]! / figures[to]!;
};

/** Writes of the repository against the barest statement that the same driver can send. */
async function repository(context: Context, world: World): Promise<Outcome[]> {
  const db = connectDatabase({ url: world.databaseUrl, pool: MOST_WRITERS });
  const broker = new RedisBroker({ url: context.services.redis.url, prefix: 'taskwire', logger: quiet });
  await broker.start();
  const publisher = new Publisher(broker, quiet);
  const tasks = new TaskRepository(db, publisher);
  const { jobs } = world;
  const own = (writer: number): number => jobs[writer]!.taskIds[0]!;
  const one = (writer: number): number => jobs[0]!.taskIds[writer]!;
  const deaf = connectDatabase({
    url: withOption(world.databaseUrl, 'session_replication_role=replica'),
    pool: MOST_WRITERS,
  });
  const uncaptured = connectDatabase({
    url: withOption(world.databaseUrl, 'taskwire.capture=off'),
    pool: MOST_WRITERS,
  });
  const bare: Write = (writer, count) => bareUpdate(deaf, own(writer), count);
  const captured: Write = (writer, count) => bareUpdate(db, own(writer), count);
  const bareCreate: Write = (writer, count) => bareInsert(uncaptured, jobs[writer]!.jobId, count);
  const capturedCreate: Write = (writer, count) => bareInsert(db, jobs[writer]!.jobId, count);
  const create: Write = (writer, count) =>
    tasks.createTaskData({ job_id: jobs[writer]!.jobId, task_definition_id: count, is_imua: false });
  const streams: Write = (writer, count) => tasks.updateTaskNumberAndStatus(own(writer), count, statusOf(count));
  const logged = new TaskRepository(db, { publish() {} });
  const unpublished: Write = (writer, count) => logged.updateTaskNumberAndStatus(own(writer), count, statusOf(count));
  const silent = new TaskRepository(db, undefined, { capture: 'off' });
  const plain: Write = (writer, count) => silent.updateTaskNumberAndStatus(own(writer), count, statusOf(count));
  const stream: Write = (writer, count) => tasks.updateTaskNumberAndStatus(one(writer), count, statusOf(count));
  const batch: Write = async (_writer, count) => {
    const { userId, taskIds } = jobs[0]!;
    const task_status = statusOf(count);
    const updates = taskIds
      .slice(0, BATCH)
      .map((task_id) => ({ kind: 'status' as const, task_id, task_number: count, task_status }));
    const outcomes = await tasks.updateManyTaskData(userId, updates);
    const error = outcomes.find((outcome) => outcome instanceof Error);
    if (error !== undefined) {
      throw error;
    }
  };
  try {
    const outcomes: Outcome[] = [];
    for (const writers of [1, 8]) {
      const figures = await sideBySide(context, [
        { name: 'bare', write: bare, writers },
        { name: 'repository', write: streams, writers },
        { name: 'unpublished', write: unpublished, writers },
        { name: 'without_events', write: plain, writers },
      ]);
      ratio(figures, 'latency_against_bare', 'repository_p50_ms', 'bare_p50_ms');
      ratio(figures, 'mean_against_bare', 'repository_mean_ms', 'bare_mean_ms');
      outcomes.push({ scenario: scenarioOf(writers), figures });
      const others = await sideBySide(context, [
        { name: 'bare', write: bare, writers },
        { name: 'captured', write: captured, writers },
        { name: 'bare_create', write: bareCreate, writers },
        { name: 'captured_create', write: capturedCreate, writers },
        { name: 'create', write: create, writers },
      ]);
      outcomes.push({ scenario: `${scenarioOf(writers)}, other programs`, figures: others });
    }
    const batches = await sideBySide(context, [
      { name: 'single', write: stream, writers: 1 },
      { name: 'batch', write: batch, writers: 1, events: BATCH },
      { name: 'single_by_8', write: stream, writers: 8 },
    ]);
    ratio(batches, 'batch_against_single', 'batch_per_s', 'single_per_s');
    ratio(batches, 'batch_against_single_by_8', 'batch_per_s', 'single_by_8_per_s');
    outcomes.push({ scenario: `S6 batches of ${BATCH}, one stream`, figures: batches });
    await openAll(db);
    const many = await sideBySide(context, [
      { name: 'one_stream', write: stream, writers: MOST_WRITERS },
      { name: 'many_streams', write: streams, writers: MOST_WRITERS },
    ]);
    outcomes.push({ scenario: `S6 ${MOST_WRITERS} writers`, figures: many });
    if (publisher.failed > 0) {
      throw new Error(`${publisher.failed} events were not published`);
    }
    return outcomes;
  } finally {
    await broker.stop();
    await Promise.all([db, deaf, uncaptured].map((each) => each.destroy()));
  }
}

const scenarioOf = (writers: number): string =>
  writers === 1 ? 'S6 1 writer' : `S6 ${writers} writers, ${writers} streams`;

/** Opens the pool's connections before anybody writes: a busy Postgres takes its time to accept one. */
async function openAll(db: Knex): Promise<void> {
  await Promise.all(Array.from({ length: MOST_WRITERS }, () => db.raw('SELECT pg_sleep(1)')));
}

function bareUpdate(db: Knex, taskId: number, count: number): Promise<unknown> {
  return preparedQuery(
    db,
    'UPDATE tasks SET task_number = ?::bigint, task_status = ?::text WHERE task_id = ? RETURNING task_id',
    [count, statusOf(count), taskId],
  );
}

function bareInsert(db: Knex, jobId: string, count: number): Promise<unknown> {
  return preparedQuery(
    db,
    `INSERT INTO tasks (job_id, user_id, task_definition_id, is_imua, task_status, created_at)
     SELECT job_id, user_id, ?::bigint, false, 'pending', clock_timestamp() FROM jobs WHERE job_id = ?::numeric
     RETURNING task_id`,
    [count, jobId],
  );
}

/** The same database for sessions with a setting: without triggers, or without those of capture. */
function withOption(url: string, setting: string): string {
  const changed = new URL(url);
  changed.searchParams.set('options', `-c ${setting}`);
  return changed.href;
}

/** Writes through REST: by the port of the WebSockets, and by the one that does not pass through the primary. */
async function rest(context: Context, { variant }: Subject, world: World): Promise<Outcome[]> {
  const restPort = await freePort();
  const server = await context.server(variant, world, { environment: { REST_PORT: String(restPort) } });
  const agent = new Agent({ keepAlive: true, maxSockets: MOST_WRITERS });
  const by =
    (port: number): Write =>
    (writer, count) =>
      put(agent, port, world, world.jobs[writer]!.taskIds[0]!, count);
  try {
    const outcomes: Outcome[] = [];
    for (const writers of [1, 8, MOST_WRITERS]) {
      const figures = await sideBySide(context, [
        { name: 'public_port', write: by(server.port), writers },
        { name: 'rest_port', write: by(restPort), writers },
      ]);
      outcomes.push({ scenario: `S6 REST, ${writers === 1 ? '1 writer' : `${writers} writers`}`, figures });
    }
    return outcomes;
  } finally {
    agent.destroy();
    await server.stop();
  }
}

function put(agent: Agent, port: number, { key }: World, taskId: number, count: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const body = JSON.stringify({ task_number: count, task_status: statusOf(count) });
    const call = request(
      {
        agent,
        port,
        host: '127.0.0.1',
        method: 'PUT',
        path: `/api/tasks/${taskId}/status`,
        headers: { 'x-api-key': key, 'content-type': 'application/json', 'content-length': body.length },
      },
      (response) => {
        let text = '';
        response.on('data', (bytes: Buffer) => {
          text += bytes;
        });
        response.once('end', () =>
          response.statusCode === 200 ? resolve() : reject(new Error(`${response.statusCode} ${text.slice(0, 200)}`)),
        );
      },
    );
    call.once('error', reject);
    call.end(body);
  });
}

async function run(context: Context, subject: Subject): Promise<Outcome[]> {
  const world = await context.world({
    jobs: MOST_WRITERS,
    users: MOST_WRITERS,
    tasksPerJob: MOST_WRITERS,
  });
  const { pinning, services } = context;
  // No server works while the repository is measured: the writer takes its core, with Redis, which works while the writer
  // waits for Postgres; Postgres has the other one for itself, as it would on a host of its own.
  pinSelf(pinning.server);
  pin(services.redis.pid, pinning.server);
  const outcomes = await repository(context, world).finally(() => {
    pinSelf(pinning.load);
    pin(services.redis.pid, pinning.load);
  });
  return [...outcomes, ...(await rest(context, subject, world))];
}

export const writesScenario: Scenario = {
  name: 'S6',
  title: 'writes through the repository and through REST',
  run,
  concerns: ({ variant, wire }) => variant.name === 'ours' && wire === 'plain',
};
