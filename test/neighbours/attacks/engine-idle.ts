import { setMaxListeners } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { type Attack, count } from '../attack.js';
import { openEngine, ready } from '../flood.js';

const SOCKETS = 688;
/** Of one address, in each of two workers. */
const MOST = 20;

const attack: Attack = {
  kind: 'door',
  title: 'Engine.IO: 688 sockets that never say whose they are',
  async run(target, outcome, stop) {
    let openNow = 0;
    const one = async (): Promise<void> => {
      while (!stop.aborted) {
        const ws = openEngine(target);
        const closed = new Promise<void>((resolve) => ws.once('close', () => resolve()));
        try {
          await ready(ws, outcome, /^0/);
          openNow += 1;
          outcome.most = Math.max(outcome.most, openNow);
          await Promise.race([closed, new Promise((resolve) => stop.addEventListener('abort', resolve))]);
          openNow -= 1;
        } catch (error) {
          count(outcome.closes, (error as Error).message);
        }
        ws.terminate();
        await sleep(500);
      }
    };
    setMaxListeners(0, stop);
    await Promise.all(Array.from({ length: SOCKETS }, one));
  },
  verify({ opened, most, statuses }) {
    expect(opened).to.be.above(MOST);
    // One that was cut off here may not have heard of it yet.
    expect(most).to.be.below(10 * MOST);
    expect(statuses).to.have.property('429');
  },
};
export default attack;
