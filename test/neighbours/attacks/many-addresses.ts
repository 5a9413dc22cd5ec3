import { expect } from 'chai';
import { type Attack, count } from '../attack.js';
import { again, openEngine, ready } from '../flood.js';

const AT_ONCE = 1_200;
const ADDRESSES = 200;

const attack: Attack = {
  kind: 'door',
  title: 'Engine.IO: 1,200 sockets without a key from 200 addresses',
  run(target, outcome, stop) {
    const network = target.address.split('.')[2];
    return again(stop, AT_ONCE, async (n) => {
      const address = `127.${network}.${1 + Math.floor((n % ADDRESSES) / 200)}.${1 + (n % 200)}`;
      const ws = openEngine({ ...target, address });
      const closed = new Promise((resolve) => ws.once('close', resolve));
      try {
        await ready(ws, outcome, /^0/);
        await closed;
      } catch (error) {
        count(outcome.closes, (error as Error).message);
      } finally {
        ws.terminate();
      }
    });
  },
  verify({ opened, closes }) {
    expect(opened).to.be.above(ADDRESSES);
    // Cut off after ten seconds, as nobody said whose they are.
    expect((closes['1006'] ?? 0) + (closes['1005'] ?? 0)).to.be.above(ADDRESSES);
  },
};
export default attack;
