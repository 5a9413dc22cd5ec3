import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { bigSnapshotRequest, fillBigJob, SNAPSHOT_BYTES } from '../big-snapshot.js';
import { again, openPlain, ready } from '../flood.js';

const AT_ONCE = 8;

const attack: Attack = {
  kind: 'readers',
  title: 'plain: snapshots of 16 MB in parts, read at once and asked for again',
  prepare: fillBigJob,
  run(target, outcome, stop) {
    const text = bigSnapshotRequest(target);
    return again(stop, AT_ONCE, async () => {
      const ws = openPlain(target);
      const closed = new Promise((resolve) => ws.once('close', resolve));
      ws.on('message', (bytes) => {
        outcome.bytes += (bytes as Buffer).length;
        if ((bytes as Buffer).includes('"SUCCESS"')) {
          ws.send(text);
        }
      });
      try {
        await ready(ws, outcome, undefined);
        for (let n = 0; n < 20; n += 1) {
          ws.send(text);
        }
        await closed;
      } finally {
        ws.terminate();
      }
    });
  },
  // Each 64 kB is a message's worth: it is slowed to what its key may have, or closed.
  verify({ bytes }, seconds) {
    expect(bytes).to.be.above(SNAPSHOT_BYTES);
    expect(bytes / 65_536).to.be.below(AT_ONCE * (1_000 + 50 * seconds));
  },
};
export default attack;
