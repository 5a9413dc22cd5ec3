import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { hammer } from '../rest.js';
import { changeJob, fillJob } from '../sql.js';

const AT_ONCE = 10;
const TASKS = 10_000;

const attack: Attack = {
  kind: 'readers',
  title: 'NDJSON: the last 10,000 events, ten streams at a time, again and again',
  async prepare(target) {
    await fillJob(target, { tasks: TASKS, bytes: 10 });
    await changeJob(target);
  },
  run: (target, outcome, stop) =>
    hammer(target, outcome, stop, {
      atOnce: AT_ONCE + 2,
      callOf: () => ({
        path: `/api/users/${target.owner}/events?since=300&limit=${TASKS}`,
        headers: { accept: 'application/x-ndjson' },
      }),
    }),
  // Ten have a place.
  verify: ({ statuses }) => expect(Object.keys(statuses)).to.include.members(['200', '429']),
};
export default attack;
