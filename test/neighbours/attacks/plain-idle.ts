import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { again, openStranger, ready } from '../flood.js';

const AT_ONCE = 300;

const attack: Attack = {
  kind: 'door',
  title: 'plain: 300 sockets without a key, of which no AUTH comes',
  run: (target, outcome, stop) =>
    again(stop, AT_ONCE, async () => {
      const ws = openStranger(target);
      const closed = new Promise((resolve) => ws.once('close', resolve));
      try {
        await ready(ws, outcome, undefined);
        await closed;
      } finally {
        ws.terminate();
      }
    }),
  verify({ closes, statuses }) {
    // Those who come push out those who wait; who has no place is told so, and who comes too often is not let in.
    expect((closes['4029'] ?? 0) + (closes['1006'] ?? 0) + (statuses['429'] ?? 0)).to.be.above(AT_ONCE / 2);
  },
};
export default attack;
