import { setTimeout as sleep } from 'node:timers/promises';
import { startRedis } from '../../test/support/redis.js';
import { cpuMicros } from '../lib/proc.js';
import type { Server } from '../lib/server.js';
import { type Context, expectAll, type Outcome, type Scenario, type Subject } from './context.js';

/** Streams that one worker follows. */
const STREAMS = [100, 1_000, 10_000];
const ROOMS_PER_CONNECTION = 200;
/** How long the worker takes to notice that Redis is gone, with room to spare. */
const NOTICE_MS = 4_000;
/** Loaded into the server: says every second how late its event loop was at most. */
const PRELOAD = new URL('../../test/support/loop-delay.js', import.meta.url).href;

/** What nothing but comparing streams with the log costs, per second. */
async function idleCosts(context: Context, server: Server, prefix: string): Promise<Record<string, number>> {
  const seconds = context.size(30, 1);
  const { postgres } = context.services;
  const read = () => [server.pid, postgres.pid].map(cpuMicros);
  server.forget();
  const before = read();
  await sleep(seconds * 1_000);
  const [serverCpu, postgresCpu] = read().map((micros, of) => (micros - before[of]!) / 1_000 / seconds);
  return {
    [`${prefix}_server_cpu_ms_per_s`]: serverCpu!,
    [`${prefix}_postgres_cpu_ms_per_s`]: postgresCpu!,
    [`${prefix}_loop_delay_max_ms`]: Math.max(
      0,
      ...[...server.log.matchAll(/"event loop delay".*"ms":(\d+)/g)].map(([, ms]) => Number(ms)),
    ),
  };
}

async function run(context: Context, { variant, wire }: Subject): Promise<Outcome[]> {
  const most = context.size(Math.max(...STREAMS), 100);
  const world = await context.world({ jobs: most, users: most, tasksPerJob: 1 });
  const outcomes: Outcome[] = [];
  for (const full of context.some(STREAMS)) {
    const streams = Math.min(full, most);
    const redis = await startRedis();
    const server = await context.server(variant, world, {
      redisUrl: redis.url,
      workers: 1,
      environment: { NODE_OPTIONS: `--import=${PRELOAD}` },
    });
    const fleet = context.fleet();
    try {
      const names = world.jobs.slice(0, streams).map(({ userId }) => `user:${userId}`);
      const rooms = Array.from({ length: Math.ceil(streams / ROOMS_PER_CONNECTION) }, (_, place) =>
        names.slice(place * ROOMS_PER_CONNECTION, (place + 1) * ROOMS_PER_CONNECTION),
      );
      const accounts = rooms.map(() => -1);
      expectAll(await fleet.open([{ port: server.port, wire, key: world.key }], rooms, accounts));
      const figures = { streams, ...(await idleCosts(context, server, 'with_redis')) };
      await redis.kill();
      await sleep(context.size(NOTICE_MS, 500));
      Object.assign(figures, await idleCosts(context, server, 'without_redis'));
      outcomes.push({ scenario: `S8 ${full.toLocaleString('en')} streams`, figures });
    } finally {
      await fleet.stop();
      await server.stop();
      await redis.stop();
    }
  }
  return outcomes;
}

export const reconcileScenario: Scenario = {
  name: 'S8',
  title: 'comparing 100, 1,000 and 10,000 streams of one worker with the log',
  run,
  concerns: ({ variant, wire }) => variant.name === 'ours' && wire === 'plain',
};
