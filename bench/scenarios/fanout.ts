import type { Server, ServerOptions } from '../lib/server.js';
import { Tally } from '../lib/tally.js';
import type { Layout } from '../lib/world.js';
import { type Context, expectAll, type Outcome, type Scenario, type Subject } from './context.js';
import { measure, type Sending, type Stage } from './measure.js';

export interface FanoutPlan {
  readonly layout: Layout;
  /** Connections in each job's room. */
  readonly membersPerRoom: number;
  readonly warmUp: Sending;
  /** What is measured, by the name under which it is reported. */
  readonly sendings: ReadonlyArray<readonly [name: string, sending: Sending]>;
  readonly server?: Partial<ServerOptions>;
  /** Servers side by side, each with its workers. */
  readonly instances?: number;
  /** Connections to rooms that nothing is sent to. */
  readonly bystanders?: number;
}

/** Rooms in turn, until there are as many events as wanted. */
export const inTurn = (rooms: number, events: number): number[] =>
  Array.from({ length: events }, (_, place) => place % rooms);

/** Sets up a server and its clients, warms both up, and measures. */
export async function runFanout(context: Context, { variant, wire }: Subject, plan: FanoutPlan): Promise<Outcome[]> {
  const { layout, membersPerRoom, instances = 1, bystanders = 0 } = plan;
  const world = await context.world(layout);
  const tally = new Tally(layout.jobs);
  const servers: Server[] = [];
  const fleet = context.fleet();
  const injector = variant.injector(context.services.redis.url, world, tally);
  try {
    for (let count = 0; count < instances; count += 1) {
      servers.push(await context.server(variant, world, plan.server));
    }
    const active = plan.sendings.flatMap(([, { rooms }]) => rooms).reduce((most, room) => Math.max(most, room + 1), 0);
    const rooms: string[][] = [];
    const accounts: number[] = [];
    for (let place = 0; place < active * membersPerRoom + bystanders; place += 1) {
      // Neighbours go to different rooms, so that each worker gets members of each.
      const room =
        place < active * membersPerRoom ? place % active : active + (place % Math.max(1, layout.jobs - active));
      rooms.push([`job:${world.jobs[room]!.jobId}`]);
      accounts.push(room < active ? room : -1);
    }
    const members = new Float64Array(layout.jobs).fill(membersPerRoom, 0, active);
    const targets = servers.map(({ port }) => ({ port, wire, key: world.key }));
    // One after another, connections alternate between the workers. Opened together, neighbours may come to one worker, and
    // with them all rooms of a stream: then an event is read by one worker only, and costs half.
    expectAll(await fleet.open(targets, rooms, accounts, { parallel: 1 }));
    const stage: Stage = { context, servers, fleet, injector, tally, members };
    await measure(stage, 'warm-up', plan.warmUp);
    const outcomes: Outcome[] = [];
    for (const [name, sending] of plan.sendings) {
      outcomes.push(await measure(stage, name, sending));
    }
    return outcomes;
  } finally {
    await injector.stop();
    await fleet.stop();
    await Promise.all(servers.map((server) => server.stop()));
  }
}

/** How long a fixed rate is kept up. */
const seconds = (context: Context): number => context.size(10, 1);

/** The wake-ups of a burst come after its commits; a worker that looks into the log meanwhile would take the burst apart. */
const UNDISTURBED = { environment: { RECONCILE_IDLE_MS: '60000' } };

const oneRoom: Scenario = {
  name: 'S1',
  title: 'one room of 2,000',
  run: (context, subject) => {
    const events = context.size(500, 20);
    const perSecond = 20;
    return runFanout(context, subject, {
      layout: { jobs: 1, users: 1, tasksPerJob: 500 },
      membersPerRoom: context.size(2_000, 20),
      warmUp: { rooms: inTurn(1, context.size(100, 5)) },
      sendings: [
        ['S1 burst', { rooms: inTurn(1, events) }],
        ['S1 at 20/s', { rooms: inTurn(1, perSecond * seconds(context)), perSecond }],
      ],
    });
  },
};

const manyRooms: Scenario = {
  name: 'S2',
  title: '2,000 rooms of one',
  run: async (context, subject) => {
    const jobs = context.size(2_000, 20);
    const perSecond = context.size(2_000, 200);
    const plan = {
      layout: { jobs, users: jobs / 10, tasksPerJob: 1 },
      membersPerRoom: 1,
      warmUp: { rooms: inTurn(jobs, jobs * 2) },
    };
    const burst = await runFanout(context, subject, {
      ...plan,
      sendings: [['S2 burst', { rooms: inTurn(jobs, jobs * 10) }]],
      server: UNDISTURBED,
    });
    const steady = await runFanout(context, subject, {
      ...plan,
      sendings: [['S2 at 2,000/s', { rooms: inTurn(jobs, perSecond * seconds(context)), perSecond }]],
    });
    return [...burst, ...steady];
  },
};

const middling: Scenario = {
  name: 'S3',
  title: '200 rooms of ten',
  run: (context, subject) => {
    const jobs = context.size(200, 10);
    const perSecond = context.size(1_000, 100);
    return runFanout(context, subject, {
      layout: { jobs, users: jobs / 5, tasksPerJob: 5 },
      membersPerRoom: context.size(10, 3),
      warmUp: { rooms: inTurn(jobs, jobs * 5) },
      sendings: [['S3 at 1,000/s', { rooms: inTurn(jobs, perSecond * seconds(context)), perSecond }]],
    });
  },
};

export const fanoutScenarios: readonly Scenario[] = [oneRoom, manyRooms, middling];
