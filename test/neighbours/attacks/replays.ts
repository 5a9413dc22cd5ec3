import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { again, openPlain, ready } from '../flood.js';
import { changeJob, fillJob } from '../sql.js';

const AT_ONCE = 10;
const TASKS = 10_000;

const attack: Attack = {
  kind: 'readers',
  title: 'plain: ten connections that ask for the last 10,000 events as fast as they are allowed',
  async prepare(target) {
    await fillJob(target, { tasks: TASKS, bytes: 10 });
    await changeJob(target);
  },
  run: (target, outcome, stop) =>
    again(stop, AT_ONCE, async () => {
      const ws = openPlain(target);
      const text = JSON.stringify({ type: 'SUBSCRIBE', data: { room: `user:${target.owner}`, since: 300 } });
      const closed = new Promise((resolve) => ws.once('close', resolve));
      try {
        await ready(ws, outcome, undefined);
        const timer = setInterval(() => ws.send(text), 30);
        await closed;
        clearInterval(timer);
      } finally {
        ws.terminate();
      }
    }),
  verify: ({ closes }) => expect(closes).to.have.property('4029'),
};
export default attack;
