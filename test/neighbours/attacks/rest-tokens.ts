import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { hammer } from '../rest.js';

const AT_ONCE = 30;
const ROOMS = 50;

const attack: Attack = {
  kind: 'requests',
  title: 'REST: tokens of 50 rooms each, 30 at a time',
  run(target, outcome, stop) {
    const body = { rooms: target.jobs.slice(0, ROOMS).map((job) => `job:${job}`) };
    return hammer(target, outcome, stop, { atOnce: AT_ONCE, callOf: () => ({ path: '/api/tokens', body }) });
  },
  verify: ({ statuses }) => expect(statuses['429'] ?? 0).to.be.above(AT_ONCE),
};
export default attack;
