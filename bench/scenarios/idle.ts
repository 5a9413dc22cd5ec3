import { setTimeout as sleep } from 'node:timers/promises';
import { cpuMicros, pssBytes } from '../lib/proc.js';
import { latencyFigures } from '../lib/stats.js';
import type { World } from '../lib/world.js';
import { type Context, expectAll, type Outcome, type Scenario, type Subject } from './context.js';
import { problemOf } from './measure.js';

const NOTHING = { counts: new Float64Array(0), sums: new Float64Array(0), stamps: new Float64Array(0) };

/** Memory of a server without connections after the same time; measured once. */
async function settledWithout(context: Context, { variant }: Subject, world: World): Promise<number> {
  const name = `settled ${variant.name}`;
  let bytes = context.kept.get(name);
  if (bytes === undefined) {
    const server = await context.server(variant, world);
    await sleep(context.settleMs);
    bytes = pssBytes(server.pid);
    await server.stop();
    context.kept.set(name, bytes);
  }
  return bytes;
}

/** How long a server takes to see that clients have gone. */
const GONE_MS = 1_000;

async function run(context: Context, subject: Subject): Promise<Outcome[]> {
  const { variant, wire } = subject;
  const connections = context.size(5_000, 30);
  const jobs = context.size(1_000, 10);
  const world = await context.world({ jobs, users: jobs / 5, tasksPerJob: 1 });
  const without = await settledWithout(context, subject, world);
  const server = await context.server(variant, world);
  const fleet = context.fleet();
  const { redis, postgres } = context.services;
  try {
    const rooms = Array.from({ length: connections }, (_, place) => {
      const { jobId, userId, taskIds } = world.jobs[place % jobs]!;
      return [`job:${jobId}`, `task:${taskIds[0]}`, `user:${userId}`];
    });
    const accounts = rooms.map(() => -1);
    const read = () => [server.pid, redis.pid, postgres.pid].map(cpuMicros);
    const memoryBefore = pssBytes(server.pid);
    const targets = [{ port: server.port, wire, key: world.key }];
    // The first ones come and go: what a server learns with them is not what a connection costs.
    const first = context.size(1_000, 10);
    expectAll(await fleet.open(targets, rooms.slice(0, first), accounts.slice(0, first)));
    await fleet.drop();
    await sleep(GONE_MS);
    const before = read();
    const opened = await fleet.open(targets, rooms, accounts);
    const after = read();
    const memoryAtOnce = pssBytes(server.pid);
    expectAll(opened);
    await fleet.begin(1);
    await sleep(context.settleMs);
    const memorySettled = pssBytes(server.pid);
    const idle = cpuMicros(server.pid) - after[0]!;
    const ended = await fleet.end(NOTHING);
    const [serverCpu, redisCpu, postgresCpu] = after.map((micros, of) => (micros - before[of]!) / connections);
    const figures = {
      connections,
      pss_kb_per_connection: (memoryAtOnce - memoryBefore) / connections / 1_024,
      settled_kb_per_connection: (memorySettled - without) / connections / 1_024,
      pss_mb_without_connections: memoryBefore / 2 ** 20,
      setup_cpu_us_per_connection: serverCpu!,
      redis_cpu_us_per_connection: redisCpu!,
      postgres_cpu_us_per_connection: postgresCpu!,
      ...latencyFigures(opened.latencies, 'setup'),
      idle_cpu_us_per_connection_and_s: idle / connections / (context.settleMs / 1_000),
      setups_tried_again: opened.retries,
    };
    return [{ scenario: 'S4', figures, problem: problemOf(ended) }];
  } finally {
    await fleet.stop();
    await server.stop();
  }
}

export const idleScenario: Scenario = { name: 'S4', title: '5,000 idle connections in three rooms each', run };
