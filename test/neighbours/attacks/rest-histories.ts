import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { hammer } from '../rest.js';
import { changeJob, fillJob } from '../sql.js';

const AT_ONCE = 60;
const TASKS = 6_000;

const attack: Attack = {
  kind: 'requests',
  title: 'REST: histories of 6,000 events in which the wanted type is not, 60 at a time',
  async prepare(target) {
    await fillJob(target, { tasks: TASKS, bytes: 10 });
    await changeJob(target);
  },
  run: (target, outcome, stop) =>
    hammer(target, outcome, stop, {
      atOnce: AT_ONCE,
      callOf: () => ({ path: `/api/jobs/${target.jobs[0]}/events?types=TASK_DELETED&limit=1000` }),
    }),
  verify: ({ statuses }) => expect(statuses['429'] ?? 0).to.be.above(AT_ONCE),
};
export default attack;
