/**
 * What an idle connection keeps on the heap of its worker, by kind of object:
 *
 *     node dist/bench/heap.js [--variants ours,plain,plain-ws] [--wire socketio|plain|both] [--connections 1000] [--settle 60]
 *                             [--out bench/results] [--smoke]
 */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { endOnSignals } from '../test/support/end-on-signals.js';
import { HeapObserver, type Share } from './lib/heap.js';
import { machine } from './lib/machine.js';
import { processTree } from './lib/proc.js';
import { Results } from './lib/results.js';
import { startServer } from './lib/server.js';
import { startServices } from './lib/services.js';
import { short, table } from './lib/table.js';
import { VARIANTS, type Variant } from './lib/variants.js';
import { createWorld, type World } from './lib/world.js';
import { Fleet } from './load/fleet.js';
import type { Wire } from './load/frames.js';
import { expectAll } from './scenarios/context.js';

const { values } = parseArgs({
  options: {
    variants: { type: 'string', default: 'ours,plain,plain-ws' },
    wire: { type: 'string', default: 'both' },
    connections: { type: 'string' },
    settle: { type: 'string' },
    out: { type: 'string' },
    smoke: { type: 'boolean', default: false },
  },
});

const { smoke } = values;
/** Connections that are there before the first snapshot: what every worker has once is not counted. */
const FIRST = smoke ? 10 : 100;
/** Kinds of which fewer than this come with a connection are summed up. */
const RARE = 0.5;

const connections = Number(values.connections ?? (smoke ? 20 : 1_000));
const settleMs = 1_000 * Number(values.settle ?? (smoke ? 0 : 60));

const results =
  values.out === undefined ? undefined : new Results(join(values.out, 'heap.jsonl'), { machine: machine(), smoke });

endOnSignals();
const services = await startServices(false);
const jobs = FIRST + connections;
try {
  const world = await createWorld(services, { jobs, users: Math.ceil(jobs / 5), tasksPerJob: 1 });
  for (const variant of VARIANTS.filter(({ name }) => values.variants.split(',').includes(name))) {
    for (const wire of variant.wires.filter((one) => values.wire === 'both' || values.wire === one)) {
      console.log(`${await measured(variant, wire, world)}\n`);
    }
  }
} finally {
  await services.stop();
}

async function measured(variant: Variant, wire: Wire, world: World): Promise<string> {
  const observer = new HeapObserver();
  const server = await startServer(variant, {
    redisUrl: services.redis.url,
    databaseUrl: world.databaseUrl,
    workers: 1,
    cores: undefined,
    environment: observer.environment,
  });
  const fleets: Fleet[] = [];
  /** Each is in a job's room and in that of the job's task and user. */
  const open = async (from: number, to: number): Promise<void> => {
    const fleet = new Fleet(1, undefined);
    fleets.push(fleet);
    const rooms = world.jobs
      .slice(from, to)
      .map(({ jobId, userId, taskIds }) => [`job:${jobId}`, `task:${taskIds[0]}`, `user:${userId}`]);
    const accounts = rooms.map(() => -1);
    expectAll(await fleet.open([{ port: server.port, wire, key: world.key }], rooms, accounts));
    await sleep(settleMs);
  };
  try {
    // With one worker ours is one process.
    const worker = processTree(server.pid).find((pid) => pid !== server.pid) ?? server.pid;
    await open(0, FIRST);
    const before = await observer.take(worker);
    await open(FIRST, jobs);
    const after = await observer.take(worker);
    const shares = perConnection(before, after);
    const figures = Object.fromEntries(
      shares.flatMap(({ kind, count, bytes }) => [
        [kind, bytes],
        [`# ${kind}`, count],
      ]),
    );
    results?.add({ scenario: 'heap', variant: variant.name, wire, repeat: 1, valid: true, figures });
    return table(
      [`${variant.name} ${wire}`, 'per connection', 'bytes'],
      shares.map(({ kind, count, bytes }) => [kind, count === 0 ? '' : short(count), bytes.toFixed(0)]),
    );
  } finally {
    await Promise.all(fleets.map((fleet) => fleet.stop()));
    await server.stop();
    observer.stop();
  }
}

/** What there is more of, per connection, the most first: kinds of which most connections have some, and two sums. */
function perConnection(
  before: ReadonlyMap<string, Share>,
  after: ReadonlyMap<string, Share>,
): Array<Share & { readonly kind: string }> {
  const grown = [...after]
    .map(([kind, { count, bytes }]) => ({
      kind,
      count: (count - (before.get(kind)?.count ?? 0)) / connections,
      bytes: (bytes - (before.get(kind)?.bytes ?? 0)) / connections,
    }))
    .sort((a, b) => b.bytes - a.bytes);
  const sum = (shares: readonly Share[]): number => shares.reduce((total, { bytes }) => total + bytes, 0);
  const rest = sum(grown.filter(({ count }) => count < RARE));
  return [
    ...grown.filter(({ count }) => count >= RARE),
    { kind: 'everything else', count: 0, bytes: rest },
    { kind: '**together**', count: 0, bytes: sum(grown) },
  ];
}
