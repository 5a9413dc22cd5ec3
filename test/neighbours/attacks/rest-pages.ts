import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { hammer } from '../rest.js';
import { fillJob } from '../sql.js';

const AT_ONCE = 60;
const TASKS = 100_000;

const attack: Attack = {
  kind: 'requests',
  title: 'REST: pages of one task of a job of 100,000, 60 at a time',
  prepare: (target) => fillJob(target, { tasks: TASKS, bytes: 10 }),
  run: (target, outcome, stop) =>
    hammer(target, outcome, stop, {
      atOnce: AT_ONCE,
      callOf: (n) => ({ path: `/api/tasks/job/${target.jobs[0]}?limit=1${n % 2 === 0 ? '' : `&after=${n}`}` }),
    }),
  verify: ({ statuses }) => expect(statuses['429'] ?? 0).to.be.above(AT_ONCE),
};
export default attack;
