/**
 * The cost of a new connection for the server, with a key and one room that nobody was in before, by who listens: 64 at a time,
 * and all at once as after an outage, with the positions that they have:
 *
 *     node dist/bench/setup.js [--connections 5000] [--rounds 3]
 *
 * All servers of a wire run side by side and take turns, so that a machine that becomes slower does so for all of them.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { endOnSignals } from './lib/machine.js';
import { cpuMicros } from './lib/proc.js';
import { startServer } from './lib/server.js';
import { startServices } from './lib/services.js';
import { summarize } from './lib/stats.js';
import { table } from './lib/table.js';
import { VARIANTS } from './lib/variants.js';
import { createWorld } from './lib/world.js';
import { Fleet } from './load/fleet.js';
import { WIRES, type Wire } from './load/frames.js';
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

/** What a set-up has cost the server in a round: some at a time, and all at once, and how long that took. */
interface SetUp {
  readonly micros: number;
  readonly microsAtOnce: number;
  readonly allBackMs: number;
}

/** A server, its clients, and what they measured. */
interface Contestant {
  readonly title: string;
  /** Opens connections to rooms of a range, and drops them. @returns what a set-up has cost, in microseconds */
  open(rooms: readonly string[]): Promise<number>;
  /** Opens those again, all at once, and drops them. */
  reopen(): Promise<Pick<SetUp, 'microsAtOnce' | 'allBackMs'>>;
  stop(): Promise<void>;
  readonly rounds: SetUp[];
}

const WORKERS = 2;
/**
 * Rounds before those that are measured: a server that has just started runs code that is not compiled yet, and a set-up costs two
 * to three times as much.
 */
const FIRST_ROUNDS = 2;
/** How long a server takes to see that clients have gone, in milliseconds. */
const GONE_MS = 1_000;

const { values } = parseArgs({
  options: { connections: { type: 'string', default: '5000' }, rounds: { type: 'string', default: '3' } },
});
const connections = Number(values.connections);
const rounds = FIRST_ROUNDS + Number(values.rounds);

endOnSignals();
const services = await startServices(false);
try {
  const jobs = connections * rounds;
  const world = await createWorld(services, { jobs, users: jobs / 5, tasksPerJob: 1 });
  const rows: string[][] = [];
  for (const wire of WIRES) {
    const contestants: Contestant[] = [];
    try {
      for (const [title, variant, wires, environment] of MODES) {
        if (wires.includes(wire)) {
          contestants.push(await start(title, variant, wire, environment));
        }
      }
      for (let round = 0; round < rounds; round += 1) {
        const rooms = world.jobs
          .slice(round * connections, (round + 1) * connections)
          .map(({ jobId }) => `job:${jobId}`);
        for (const contestant of contestants) {
          const micros = await contestant.open(rooms);
          if (round >= FIRST_ROUNDS) {
            const figures = { micros, ...(await contestant.reopen()) };
            console.error(`${contestant.title} | ${wire}: ${JSON.stringify(figures)}`);
            contestant.rounds.push(figures);
          }
        }
      }
      for (const { title, rounds: figures } of contestants) {
        const [first] = contestants;
        rows.push([
          title,
          wire,
          ...(['micros', 'microsAtOnce', 'allBackMs'] as const).map((name) => {
            const { median: middle } = summarize(figures.map((figure) => figure[name]));
            const ratios = figures.map((figure, round) => figure[name] / first!.rounds[round]![name]);
            return `${middle.toFixed(0)} (${ratios.map((ratio) => `${ratio.toFixed(2)}x`).join(', ')})`;
          }),
        ]);
      }
    } finally {
      await Promise.all(contestants.map((contestant) => contestant.stop()));
    }
  }
  console.log(table(['', 'wire', 'server CPU of a set-up, µs', 'all at once, µs', 'all are live after, ms'], rows));

  async function start(
    title: string,
    name: string,
    wire: Wire,
    environment: Record<string, string>,
  ): Promise<Contestant> {
    const server = await startServer(VARIANTS.find((variant) => variant.name === name)!, {
      redisUrl: services.redis.url,
      databaseUrl: world.databaseUrl,
      workers: WORKERS,
      cores: undefined,
      environment,
    });
    const fleet = new Fleet(1, undefined);
    const ports = environment['LISTEN'] === 'workers' ? WORKERS : 1;
    const targets = Array.from({ length: ports }, (_, place) => ({ port: server.port + place, wire, key: world.key }));
    const goAway = async (): Promise<void> => {
      await fleet.drop();
      await sleep(GONE_MS);
    };
    return {
      title,
      rounds: [],
      open: async (rooms) => {
        const before = cpuMicros(server.pid);
        expectAll(
          await fleet.open(
            targets,
            rooms.map((room) => [room]),
            rooms.map((_, place) => place),
          ),
        );
        const micros = (cpuMicros(server.pid) - before) / rooms.length;
        await goAway();
        return micros;
      },
      reopen: async () => {
        const [before, begin] = [cpuMicros(server.pid), performance.now()];
        expectAll(await fleet.reopen(name === 'ours'));
        const allBackMs = performance.now() - begin;
        const microsAtOnce = (cpuMicros(server.pid) - before) / connections;
        await goAway();
        return { microsAtOnce, allBackMs };
      },
      stop: async () => {
        await fleet.stop();
        await server.stop();
      },
    };
  }
} finally {
  await services.stop();
}
