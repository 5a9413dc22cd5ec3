import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { again, openPlain, ready } from '../flood.js';

const AT_ONCE = 8;

const attack: Attack = {
  kind: 'door',
  title: 'plain: connects with a good key and goes, as fast as it can',
  run: (target, outcome, stop) =>
    again(stop, AT_ONCE, async () => {
      const ws = openPlain(target);
      const closed = new Promise((resolve) => ws.once('close', resolve));
      try {
        await ready(ws, outcome, undefined);
        ws.close();
        await closed;
      } finally {
        ws.terminate();
      }
    }),
  // Each is a request of the key, and in the end also an attempt of the address.
  verify: ({ closes, statuses }) => expect((closes['4029'] ?? 0) + (statuses['429'] ?? 0)).to.be.above(10),
};
export default attack;
