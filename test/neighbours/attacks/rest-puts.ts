import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { hammer } from '../rest.js';

const AT_ONCE = 30;

const attack: Attack = {
  kind: 'requests',
  title: 'REST: PUT of its own tasks in a tight loop, 30 at a time',
  run: (target, outcome, stop) =>
    hammer(target, outcome, stop, {
      atOnce: AT_ONCE,
      callOf: (n) => ({ method: 'PUT', path: `/api/tasks/${target.tasks[n % 300]}/fee`, body: { fee: n } }),
    }),
  verify: ({ statuses }) => expect(statuses['429'] ?? 0).to.be.above(AT_ONCE),
};
export default attack;
