import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { hammer } from '../rest.js';

const AT_ONCE = 60;
const ITEMS = 500;

const attack: Attack = {
  kind: 'requests',
  title: 'REST: 60 batches of 500 tasks at once, again and again',
  run(target, outcome, stop) {
    const body = JSON.stringify(
      Array.from({ length: ITEMS }, () => ({ job_id: target.jobs[0], task_definition_id: 1 })),
    );
    return hammer(target, outcome, stop, {
      atOnce: AT_ONCE,
      pauseMs: 50,
      callOf: () => ({ path: '/api/tasks', body }),
    });
  },
  verify({ statuses }, seconds) {
    // 600 requests a minute are one such batch.
    expect(statuses['201'] ?? 0).to.be.most(1 + Math.floor(seconds / 60));
    expect(statuses['429'] ?? 0).to.be.above(AT_ONCE);
  },
};
export default attack;
