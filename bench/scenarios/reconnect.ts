import { setTimeout as sleep } from 'node:timers/promises';
import { cpuMicros } from '../lib/proc.js';
import { latencyFigures } from '../lib/stats.js';
import { Tally } from '../lib/tally.js';
import { type Context, expectAll, type Outcome, type Scenario, type Subject } from './context.js';
import { inTurn } from './fanout.js';
import { measure, problemOf, type Stage } from './measure.js';

/** Events of its room that each client misses: none, as many as are kept in memory, and more. */
const MISSED = [0, 100, 1_000];
/** How long the servers take to see that clients have gone. */
const GONE_MS = 1_000;

async function run(context: Context, { variant, wire }: Subject): Promise<Outcome[]> {
  const jobs = context.size(10, 2);
  const membersPerRoom = context.size(100, 5);
  const connections = jobs * membersPerRoom;
  const world = await context.world({ jobs, users: jobs, tasksPerJob: 100 });
  const tally = new Tally(jobs);
  const server = await context.server(variant, world);
  const fleet = context.fleet();
  const injector = variant.injector(context.services.redis.url, world, tally);
  try {
    const accounts = inTurn(jobs, connections);
    const rooms = accounts.map((room) => [`job:${world.jobs[room]!.jobId}`]);
    expectAll(await fleet.open([{ port: server.port, wire, key: world.key }], rooms, accounts));
    const members = new Float64Array(jobs).fill(membersPerRoom);
    const stage: Stage = { context, servers: [server], fleet, injector, tally, members };
    await measure(stage, 'warm-up', { rooms: inTurn(jobs, jobs * 20) });
    const outcomes: Outcome[] = [];
    for (const full of MISSED) {
      // Only ours can say where it stopped.
      if (full > 0 && !variant.ours) {
        break;
      }
      const missed = context.size(full, full / 20);
      await fleet.drop();
      await sleep(context.size(GONE_MS, 100));
      tally.begin();
      await fleet.begin(1);
      await injector.burst(inTurn(jobs, jobs * missed));
      await injector.idle();
      const [cpu, postgres] = [cpuMicros(server.pid), cpuMicros(context.services.postgres.pid)];
      const start = performance.now();
      const opened = await fleet.reopen(variant.ours);
      const took = performance.now() - start;
      const spent = cpuMicros(server.pid) - cpu;
      const spentPostgres = cpuMicros(context.services.postgres.pid) - postgres;
      expectAll(opened);
      const ended = await fleet.end(tally.expected);
      const figures = {
        connections,
        missed_events: missed,
        all_back_ms: took,
        ...latencyFigures(opened.latencies, 'back'),
        server_cpu_us_per_connection: spent / connections,
        postgres_cpu_us_per_connection: spentPostgres / connections,
        replayed_events: opened.replayed,
        setups_tried_again: opened.retries,
      };
      const unrecovered = opened.unrecovered > 0 ? `${opened.unrecovered} were not recovered` : undefined;
      const scenario = full === 0 ? 'S5 nothing missed' : `S5 ${full} missed`;
      outcomes.push({ scenario, figures, problem: problemOf(ended) ?? unrecovered });
    }
    return outcomes;
  } finally {
    await injector.stop();
    await fleet.stop();
    await server.stop();
  }
}

export const reconnectScenario: Scenario = { name: 'S5', title: '1,000 clients come back at once', run };
