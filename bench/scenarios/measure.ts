import { setTimeout as sleep } from 'node:timers/promises';
import type { Injector } from '../lib/injector.js';
import { cpuMicros } from '../lib/proc.js';
import type { Server } from '../lib/server.js';
import { servicesCpu } from '../lib/services.js';
import { latencyFigures } from '../lib/stats.js';
import type { Tally } from '../lib/tally.js';
import type { Fleet } from '../load/fleet.js';
import type { Counted, Ended } from '../load/messages.js';
import type { Context, Outcome } from './context.js';

/** Events and how they are sent: all at once, or so many per second in the order given. */
export interface Sending {
  readonly rooms: readonly number[];
  readonly perSecond?: number;
}

/** Everything that a measurement of deliveries needs. */
export interface Stage {
  readonly context: Context;
  readonly servers: readonly Server[];
  readonly fleet: Fleet;
  readonly injector: Injector;
  readonly tally: Tally;
  /** Members of each room. */
  readonly members: ArrayLike<number>;
}

const POLL_MS = 20;
/** Without any delivery for so long the rest counts as lost. */
const STALL_MS = 8_000;
/** How long copies may come after the last delivery that is wanted. */
const LATE_MS = 250;
/** Deliveries of one measurement that are timed, about. */
const SAMPLES = 100_000;
/** A fixed rate that was missed by more is no fixed rate. */
const RATE_TOLERANCE = 0.03;

async function sendAtRate(injector: Injector, rooms: readonly number[], perSecond: number): Promise<void> {
  const start = performance.now();
  let sent = 0;
  while (sent < rooms.length) {
    const due = Math.min(rooms.length, 1 + Math.floor(((performance.now() - start) * perSecond) / 1_000));
    if (due > sent) {
      injector.send(rooms.slice(sent, due));
      sent = due;
    }
    await sleep(1);
  }
}

async function allDelivered(fleet: Fleet, deliveries: number): Promise<Counted> {
  let counted = await fleet.count();
  let progress = performance.now();
  while (counted.delivered < deliveries && performance.now() - progress < STALL_MS) {
    await sleep(POLL_MS);
    const now = await fleet.count();
    if (now.delivered > counted.delivered) {
      progress = performance.now();
    }
    counted = now;
  }
  return counted;
}

const CPU = ['server', 'redis', 'postgres', 'writer'] as const;

function readCpu({ servers, context }: Stage): Record<(typeof CPU)[number], number> {
  const { user, system } = process.cpuUsage();
  return {
    server: servers.reduce((sum, { pid }) => sum + cpuMicros(pid), 0),
    ...servicesCpu(context.services),
    writer: user + system,
  };
}

/** Sends events, waits for all deliveries and counts what they cost. */
export async function measure(stage: Stage, scenario: string, sending: Sending): Promise<Outcome> {
  const { fleet, injector, tally, members } = stage;
  const planned = sending.rooms.reduce((sum, room) => sum + members[room]!, 0);
  tally.begin();
  await fleet.begin(Math.max(1, Math.ceil(planned / SAMPLES)));
  const before = readCpu(stage);
  const start = performance.now();
  if (sending.perSecond === undefined) {
    await injector.burst(sending.rooms);
  } else {
    await sendAtRate(injector, sending.rooms, sending.perSecond);
  }
  await injector.idle();
  const took = (performance.now() - start) / 1_000;
  const deliveries = tally.deliveries(members);
  await allDelivered(fleet, deliveries);
  const after = readCpu(stage);
  await sleep(LATE_MS);
  const ended = await fleet.end(tally.expected);

  const spent = (of: (typeof CPU)[number]): number => after[of] - before[of];
  const eventsPerSecond = tally.sent / took;
  const figures: Record<string, number> = {
    deliveries,
    server_cpu_us_per_delivery: spent('server') / deliveries,
    deliveries_per_s: (deliveries / (ended.lastMicros - tally.firstMicros)) * 1e6,
    ...latencyFigures(ended.latencies, 'latency'),
    redis_cpu_us_per_event: spent('redis') / tally.sent,
    postgres_cpu_us_per_event: spent('postgres') / tally.sent,
    writer_cpu_us_per_event: spent('writer') / tally.sent,
    load_cpu_us_per_delivery: ended.cpuMicros / deliveries,
  };
  if (sending.perSecond !== undefined) {
    figures['events_per_s'] = eventsPerSecond;
  }
  // A smoke run shares its machine with others.
  const slow =
    !stage.context.smoke &&
    sending.perSecond !== undefined &&
    eventsPerSecond < sending.perSecond * (1 - RATE_TOLERANCE)
      ? `only ${eventsPerSecond.toFixed(0)} of ${sending.perSecond} events per second were sent`
      : undefined;
  return { scenario, figures, problem: problemOf(ended) ?? slow };
}

/** Why a measurement does not count; undefined when everything arrived once and in order. */
export function problemOf({ lost, extra, disordered, wrong, closed, problems }: Ended): string | undefined {
  return lost + extra + disordered + wrong + closed === 0
    ? undefined
    : `${lost} lost, ${extra} too many, ${disordered} not in order, ${wrong} connections with other events, ` +
        `${closed} closed ${problems.join('; ')}`;
}
