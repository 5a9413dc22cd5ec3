import { randomUUID } from 'node:crypto';
import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { hammer } from '../rest.js';

const AT_ONCE = 30;
/** What a key may ask for in a minute. */
const RATE = 600;

const attack: Attack = {
  kind: 'requests',
  title: 'REST: writes each with an Idempotency-Key of its own, 30 at a time',
  run: (target, outcome, stop) =>
    hammer(target, outcome, stop, {
      atOnce: AT_ONCE,
      callOf: () => ({
        path: '/api/tasks',
        headers: { 'idempotency-key': randomUUID() },
        body: { job_id: target.jobs[0], task_definition_id: 1 },
      }),
    }),
  verify({ statuses }, seconds) {
    expect(statuses['429'] ?? 0).to.be.above(AT_ONCE);
    // So many are kept for a day.
    expect(statuses['201'] ?? 0).to.be.most(RATE * (1 + Math.floor(seconds / 60)));
  },
};
export default attack;
