import { cpus } from 'node:os';
import type { Context, Outcome, Scenario, Subject } from './context.js';
import { inTurn, runFanout } from './fanout.js';

/** Every core of the machine, as taskset takes them; this process has only some of them. */
const everywhere = (context: Context): string | undefined =>
  context.pinning.server === undefined ? undefined : `0-${cpus().length - 1}`;

const SETUPS = [
  { name: '1 worker', workers: 1, instances: 1 },
  { name: '2 workers', workers: 2, instances: 1 },
  { name: '4 workers', workers: 4, instances: 1 },
  { name: '2 instances of 1 worker', workers: 1, instances: 2 },
];

async function workers(context: Context, subject: Subject): Promise<Outcome[]> {
  const jobs = context.size(200, 10);
  const outcomes: Outcome[] = [];
  for (const { name, workers: count, instances } of context.some(SETUPS)) {
    const measured = await runFanout(context, subject, {
      layout: { jobs, users: jobs / 5, tasksPerJob: 5 },
      membersPerRoom: context.size(10, 2),
      warmUp: { rooms: inTurn(jobs, jobs * 5) },
      sendings: [[`S7 ${name}`, { rooms: inTurn(jobs, jobs * context.size(100, 5)) }]],
      server: { workers: count, cores: everywhere(context), environment: { RECONCILE_IDLE_MS: '60000' } },
      instances,
    });
    outcomes.push(...measured);
  }
  return outcomes;
}

/** The same events to the same clients, alone and among ten times as many rooms, streams and connections. */
async function tenfold(context: Context, subject: Subject): Promise<Outcome[]> {
  const active = context.size(100, 5);
  const perSecond = context.size(500, 100);
  const outcomes: Outcome[] = [];
  for (const factor of context.some([1, 10])) {
    const measured = await runFanout(context, subject, {
      layout: { jobs: active * factor, users: active * factor, tasksPerJob: 1 },
      membersPerRoom: 2,
      bystanders: 2 * active * (factor - 1),
      warmUp: { rooms: inTurn(active, active * 10) },
      sendings: [[`S7 among ${factor}x`, { rooms: inTurn(active, perSecond * context.size(10, 1)), perSecond }]],
    });
    outcomes.push(...measured);
  }
  return outcomes;
}

export const scalingScenario: Scenario = {
  name: 'S7',
  title: '1, 2 and 4 workers, two instances, and ten times as much of everything',
  run: async (context, subject) => [...(await workers(context, subject)), ...(await tenfold(context, subject))],
};
