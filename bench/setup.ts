/**
 * The cost of a new connection for the server, with a key and one room, by who listens; some at a time, and all at once as after
 * an outage, with the positions that they have:
 *
 *     node dist/bench/setup.js [--connections 2000] [--repeats 3]
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { endOnSignals } from './lib/machine.js';
import { cpuMicros } from './lib/proc.js';
import { startServer } from './lib/server.js';
import { startServices } from './lib/services.js';
import { table } from './lib/table.js';
import { VARIANTS } from './lib/variants.js';
import { createWorld, type World } from './lib/world.js';
import { Fleet } from './load/fleet.js';
import type { Wire } from './load/frames.js';
import { expectAll } from './scenarios/context.js';

const MODES: ReadonlyArray<
  readonly [title: string, variant: string, wires: readonly Wire[], env: Record<string, string>]
> = [
  ['plain Socket.IO with sticky', 'plain', ['socketio'], {}],
  ['bare ws with sticky', 'plain-ws', ['plain'], {}],
  ['ours, the primary hands over', 'ours', ['socketio', 'plain'], {}],
  ['ours, LISTEN=workers', 'ours', ['socketio', 'plain'], { LISTEN: 'workers' }],
  ['ours, WORKERS=1', 'ours', ['socketio', 'plain'], { WORKERS: '1' }],
];
/** What a set-up has cost the server: some at a time, and all at once, and how long that took. */
interface SetUp {
  readonly micros: number;
  readonly microsAtOnce: number;
  readonly allBackMs: number;
}

const WORKERS = 2;
/** Connections that come and go first: what a server learns with them is not what a connection costs. */
const FIRST = 500;
/** How long a server takes to see that clients have gone, in milliseconds. */
const GONE_MS = 1_000;

const { values } = parseArgs({
  options: { connections: { type: 'string', default: '2000' }, repeats: { type: 'string', default: '3' } },
});
const connections = Number(values.connections);

endOnSignals();
const services = await startServices(false);
try {
  const world = await createWorld(services, { jobs: connections, users: connections / 5, tasksPerJob: 1 });
  const measured = new Map<string, SetUp[]>();
  for (let repeat = 0; repeat < Number(values.repeats); repeat += 1) {
    for (const [title, name, wires, environment] of MODES) {
      for (const wire of wires) {
        const key = `${title} | ${wire}`;
        const figures = await setUp(name, wire, environment, world);
        console.error(`${key}: ${JSON.stringify(figures)}`);
        measured.set(key, [...(measured.get(key) ?? []), figures]);
      }
    }
  }
  const rows = [...measured].map(([key, figures]) => [
    ...key.split(' | '),
    ...(['micros', 'microsAtOnce', 'allBackMs'] as const).map((name) =>
      figures.map((figure) => figure[name].toFixed(0)).join(', '),
    ),
  ]);
  console.log(table(['', 'wire', 'server CPU of a set-up, µs', 'all at once, µs', 'all are live after, ms'], rows));
} finally {
  await services.stop();
}

async function setUp(name: string, wire: Wire, environment: Record<string, string>, world: World): Promise<SetUp> {
  const server = await startServer(VARIANTS.find((variant) => variant.name === name)!, {
    redisUrl: services.redis.url,
    databaseUrl: world.databaseUrl,
    workers: WORKERS,
    cores: undefined,
    environment,
  });
  const fleet = new Fleet(1, undefined);
  try {
    const ports = environment['LISTEN'] === 'workers' ? WORKERS : 1;
    const targets = Array.from({ length: ports }, (_, place) => ({ port: server.port + place, wire, key: world.key }));
    const rooms = world.jobs.map(({ jobId }) => [`job:${jobId}`]);
    const accounts = rooms.map((_, room) => room);
    expectAll(await fleet.open(targets, rooms.slice(0, FIRST), accounts.slice(0, FIRST)));
    await fleet.drop();
    await sleep(GONE_MS);
    const before = cpuMicros(server.pid);
    expectAll(await fleet.open(targets, rooms, accounts));
    const micros = (cpuMicros(server.pid) - before) / rooms.length;
    await fleet.drop();
    await sleep(GONE_MS);
    const [idle, start] = [cpuMicros(server.pid), performance.now()];
    expectAll(await fleet.reopen(name === 'ours'));
    const allBackMs = performance.now() - start;
    return { micros, microsAtOnce: (cpuMicros(server.pid) - idle) / rooms.length, allBackMs };
  } finally {
    await fleet.stop();
    await server.stop();
  }
}
