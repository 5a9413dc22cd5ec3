import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { again } from '../flood.js';
import { hammer, send } from '../rest.js';

const BATCHES = 10;
const PUTS = 450;
const ITEMS = 500;

const attack: Attack = {
  kind: 'database',
  title: 'REST: a key without a limit: 10 batches of 500 and 450 writes at once, all to its own stream',
  rateLimit: 1_000_000_000,
  async run(target, outcome, stop) {
    const body = JSON.stringify(
      Array.from({ length: ITEMS }, () => ({ job_id: target.jobs[0], task_definition_id: 1 })),
    );
    await Promise.all([
      hammer(target, outcome, stop, { atOnce: BATCHES, callOf: () => ({ path: '/api/tasks', body }) }),
      again(stop, PUTS, (n) =>
        send(target, outcome, { method: 'PUT', path: `/api/tasks/${target.tasks[n % 300]}/fee`, body: { fee: n } }),
      ),
    ]);
  },
  verify({ codes, statuses }) {
    // Its writes wait for each other; whether so many wait that some are refused depends on how fast they come.
    expect(statuses).to.have.property('201');
    expect(Object.keys(codes).filter((code) => code !== 'STREAM_BUSY')).to.deep.equal([]);
  },
};
export default attack;
