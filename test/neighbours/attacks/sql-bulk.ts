import { expect } from 'chai';
import { type Attack, count } from '../attack.js';
import { again, openPlain, ready } from '../flood.js';
import { changeJob, fillJob } from '../sql.js';

const TASKS = 10_000;
const SUBSCRIBERS = 4;

const attack: Attack = {
  kind: 'database',
  title: 'SQL: changes 10,000 of its tasks in one statement, again and again, and four are told of each',
  prepare: (target) => fillJob(target, { tasks: TASKS, bytes: 10 }),
  async run(target, outcome, stop) {
    for (let n = 0; n < SUBSCRIBERS; n += 1) {
      const ws = openPlain(target);
      await ready(ws, outcome, undefined).then(
        () => ws.send(JSON.stringify({ type: 'SUBSCRIBE', data: { room: `job:${target.jobs[0]}`, snapshot: false } })),
        () => {},
      );
      ws.on('message', () => count(outcome.statuses, 'events'));
    }
    await again(stop, 1, async () => {
      await changeJob(target);
      count(outcome.statuses, 'changed');
    });
  },
  // Its own subscribers get it all; nobody else waits for that.
  verify({ statuses }) {
    expect(statuses['changed'] ?? 0).to.be.above(1);
    expect(statuses['events'] ?? 0).to.be.above(TASKS);
  },
};
export default attack;
