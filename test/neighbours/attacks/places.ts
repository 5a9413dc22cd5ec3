import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { again, openPlain, ready } from '../flood.js';

const AT_ONCE = 200;
/** MAX_CONNECTIONS_PER_IP, and how many may be on their way out. */
const MOST = 10;

const attack: Attack = {
  kind: 'door',
  title: 'plain: 200 connections of one key and address at once, again and again',
  run(target, outcome, stop) {
    let openNow = 0;
    return again(stop, AT_ONCE, async () => {
      const ws = openPlain(target);
      const closed = new Promise<void>((resolve) => ws.once('close', () => resolve()));
      await ready(ws, outcome, /SUCCESS|POSITION|PONG/).catch(() => {});
      openNow += 1;
      outcome.most = Math.max(outcome.most, openNow);
      await closed;
      openNow -= 1;
    });
  },
  verify({ closes, statuses }) {
    expect((closes['4029'] ?? 0) + (statuses['429'] ?? 0)).to.be.above(AT_ONCE - MOST);
  },
};
export default attack;
