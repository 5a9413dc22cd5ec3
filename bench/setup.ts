/**
 * The cost of a new connection for the server, with a key and one room, by who listens:
 *
 *     node dist/bench/setup.js [--connections 2000] [--rounds 5] [--rate 150] [--first 6] [--wire socketio|plain|both]
 *     node dist/bench/setup.js --parallel 64 [...]
 *
 * All servers of a wire run side by side and get connections at the same time and rate, so that nothing that happens to the
 * machine is counted for one of them only, and none stands idle while another is measured: V8 drops compiled code of a process
 * that is idle. With `--parallel` each server in turn gets so many at a time, as fast as it answers.
 *
 * A round goes to rooms that somebody is in, the next one to rooms that nobody was in. Then each server in turn gets connections
 * back all at once as after an outage, with the positions that they have.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { endOnSignals } from '../test/support/end-on-signals.js';
import { cpuMicros } from './lib/proc.js';
import { type Server, startServer } from './lib/server.js';
import { type Services, startServices } from './lib/services.js';
import { summarize } from './lib/stats.js';
import { table } from './lib/table.js';
import { VARIANTS } from './lib/variants.js';
import { createWorld, type World } from './lib/world.js';
import type { Target } from './load/connection.js';
import { Fleet } from './load/fleet.js';
import { type Wire, wiresOf } from './load/frames.js';
import type { Pace } from './load/messages.js';
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

/** What is measured: processor time of a set-up in microseconds, or how long it took until all were back in milliseconds. */
const FIGURES = [
  ['newRooms', 'rooms that nobody was in, µs'],
  ['knownRooms', 'rooms that somebody is in, µs'],
  ['atOnce', 'all at once, µs'],
  ['allBackMs', 'all are live after, ms'],
] as const;

type Figure = (typeof FIGURES)[number][0];

const WORKERS = 2;
/** Rooms that somebody is in. */
const KNOWN_ROOMS = 500;
/** How long a server takes to see that clients have gone, in milliseconds. */
const GONE_MS = 1_000;

type Mode = (typeof MODES)[number];

/** A server, its clients, and what they measured. */
class Contestant {
  private readonly fleet = new Fleet(1, undefined);
  /** Those that stay in the rooms that somebody is in. */
  private readonly holders = new Fleet(1, undefined);
  private readonly figures: Record<Figure, number[]> = { newRooms: [], knownRooms: [], atOnce: [], allBackMs: [] };

  private constructor(
    readonly title: string,
    private readonly ours: boolean,
    private readonly server: Server,
    private readonly targets: readonly Target[],
  ) {}

  static async start(
    [title, name, , environment]: Mode,
    wire: Wire,
    { redis }: Services,
    { databaseUrl, key }: World,
  ): Promise<Contestant> {
    const variant = VARIANTS.find((candidate) => candidate.name === name)!;
    const options = { redisUrl: redis.url, databaseUrl, workers: WORKERS, cores: undefined, environment };
    const server = await startServer(variant, options);
    const ports = environment['LISTEN'] === 'workers' ? WORKERS : 1;
    const targets = Array.from({ length: ports }, (_, place) => ({ port: server.port + place, wire, key }));
    return new Contestant(title, variant.ours, server, targets);
  }

  /** Opens a connection to each room, for as long as this contestant runs. */
  async hold(rooms: readonly string[]): Promise<void> {
    expectAll(await this.holders.open(this.targets, rooms.map(alone), rooms.map(uncounted)));
  }

  /** Opens a connection to each room, and drops them. @param figure what that measures; undefined: nothing */
  async open(rooms: readonly string[], pace: Pace, figure: Figure | undefined): Promise<void> {
    const before = cpuMicros(this.server.pid);
    expectAll(await this.fleet.open(this.targets, rooms.map(alone), rooms.map(uncounted), pace));
    if (figure !== undefined) {
      this.figures[figure].push((cpuMicros(this.server.pid) - before) / rooms.length);
    }
    await this.goAway();
  }

  /** Opens all of the last time again at once, and drops them. */
  async reopen(): Promise<void> {
    const [before, begin] = [cpuMicros(this.server.pid), performance.now()];
    const opened = await this.fleet.reopen(this.ours);
    expectAll(opened);
    this.figures.allBackMs.push(performance.now() - begin);
    this.figures.atOnce.push((cpuMicros(this.server.pid) - before) / opened.ready);
    await this.goAway();
  }

  /** The median of each figure, and that of its ratios to another contestant's, with the lowest and the highest. */
  comparedTo(other: Contestant): string[] {
    return FIGURES.map(([figure]) => {
      const measured = this.figures[figure];
      const ratios = summarize(measured.map((value, round) => value / other.figures[figure][round]!));
      const [ratio, low, high] = [ratios.median, ratios.min, ratios.max].map((value) => value.toFixed(2));
      return `${summarize(measured).median.toFixed(0)} (${ratio}x; ${low} to ${high})`;
    });
  }

  async stop(): Promise<void> {
    await Promise.all([this.fleet.stop(), this.holders.stop()]);
    await this.server.stop();
  }

  private async goAway(): Promise<void> {
    await this.fleet.drop();
    await sleep(GONE_MS);
  }
}

/** All at the same time, or one after the other. */
async function eachOf<Item>(items: readonly Item[], work: (item: Item) => Promise<void>): Promise<void> {
  if (!inTurn) {
    await Promise.all(items.map(work));
    return;
  }
  for (const item of items) {
    await work(item);
  }
}

const alone = (room: string): readonly string[] => [room];
const uncounted = (): number => -1;

const { values } = parseArgs({
  options: {
    connections: { type: 'string', default: '2000' },
    rounds: { type: 'string', default: '5' },
    rate: { type: 'string', default: '150' },
    parallel: { type: 'string' },
    // Rounds before those that are measured: a server that has just started runs code that is not compiled yet, and a set-up
    // costs two to three times as much. Of two workers each compiles its own.
    first: { type: 'string', default: '6' },
    wire: { type: 'string', default: 'both' },
  },
});
const connections = Number(values.connections);
const firstRounds = Number(values.first);
const rounds = firstRounds + Number(values.rounds);
const inTurn = values.parallel !== undefined;
const pace: Pace = inTurn ? { parallel: Number(values.parallel) } : { perSecond: Number(values.rate) };

endOnSignals();
const services = await startServices(false);
try {
  const jobs = connections * rounds + KNOWN_ROOMS;
  const world = await createWorld(services, { jobs, users: jobs / 5, tasksPerJob: 1 });
  const rooms = world.jobs.map(({ jobId }) => `job:${jobId}`);
  const knownRooms = rooms.slice(-KNOWN_ROOMS);
  const rows: string[][] = [];
  for (const wire of wiresOf(values.wire)) {
    const contestants: Contestant[] = [];
    try {
      for (const mode of MODES.filter(([, , wires]) => wires.includes(wire))) {
        contestants.push(await Contestant.start(mode, wire, services, world));
      }
      await Promise.all(contestants.map((contestant) => contestant.hold(knownRooms)));
      for (let round = 0; round < rounds; round += 1) {
        const newRooms = rooms.slice(round * connections, (round + 1) * connections);
        const known = newRooms.map((_, place) => knownRooms[place % KNOWN_ROOMS]!);
        const figureOf = (figure: Figure): Figure | undefined => (round < firstRounds ? undefined : figure);
        await eachOf(contestants, (contestant) => contestant.open(known, pace, figureOf('knownRooms')));
        await eachOf(contestants, (contestant) => contestant.open(newRooms, pace, figureOf('newRooms')));
      }
      for (let round = 0; round < Number(values.rounds); round += 1) {
        for (const contestant of contestants) {
          await contestant.reopen();
        }
      }
      for (const contestant of contestants) {
        rows.push([contestant.title, wire, ...contestant.comparedTo(contestants[0]!)]);
      }
    } finally {
      await Promise.all(contestants.map((contestant) => contestant.stop()));
    }
  }
  console.log(table(['', 'wire', ...FIGURES.map(([, head]) => head)], rows));
} finally {
  await services.stop();
}
