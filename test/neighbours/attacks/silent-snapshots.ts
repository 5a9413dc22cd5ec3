import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { bigSnapshotRequest, fillBigJob } from '../big-snapshot.js';
import { again, openPlain, ready } from '../flood.js';

const AT_ONCE = 8;
/** For so long it reads nothing, and then goes. */
const SILENT_MS = 8_000;
const EVERY_MS = 200;

const attack: Attack = {
  kind: 'readers',
  title: 'plain: snapshots of 16 MB in parts, asked for again and again, of which nothing is read',
  prepare: fillBigJob,
  run(target, outcome, stop) {
    const text = bigSnapshotRequest(target);
    return again(stop, AT_ONCE, async () => {
      const ws = openPlain(target);
      try {
        await ready(ws, outcome, undefined);
        ws.pause();
        for (let waited = 0; waited < SILENT_MS && !stop.aborted; waited += EVERY_MS) {
          ws.send(text);
          await sleep(EVERY_MS);
        }
      } finally {
        ws.terminate();
      }
    });
  },
  // It waits for itself: after a part or two nothing more is sent, and nothing is closed for it within a minute.
  verify: ({ opened }) => expect(opened).to.be.above(AT_ONCE),
};
export default attack;
