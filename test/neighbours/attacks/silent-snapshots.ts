import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { again, openPlain, ready } from '../flood.js';
import { fillJob } from '../sql.js';

const AT_ONCE = 8;
const TASKS = 2_000;
const BYTES = 8_000;
/** For so long it reads nothing, and then what it was told. */
const SILENT_MS = 14_000;
const EVERY_MS = 200;

const attack: Attack = {
  kind: 'readers',
  title: 'plain: snapshots of 16 MB in parts, asked for again and again, of which nothing is read',
  prepare: (target) => fillJob(target, { tasks: TASKS, bytes: BYTES }),
  run(target, outcome, stop) {
    const text = JSON.stringify({
      type: 'SUBSCRIBE',
      data: { room: `job:${target.jobs[0]}`, snapshot: { parts: true } },
    });
    return again(stop, AT_ONCE, async () => {
      const ws = openPlain(target);
      const closed = new Promise((resolve) => ws.once('close', resolve));
      try {
        await ready(ws, outcome, undefined);
        ws.pause();
        for (let waited = 0; waited < SILENT_MS && !stop.aborted; waited += EVERY_MS) {
          ws.send(text);
          await sleep(EVERY_MS);
        }
        ws.resume();
        await closed;
      } finally {
        ws.terminate();
      }
    });
  },
  verify: ({ closes }) => expect(closes).to.have.property('4008'),
};
export default attack;
