import { expect } from 'chai';
import { clientFrame } from '../../support/hostile-client.js';
import type { Attack } from '../attack.js';
import { flood, openPlain } from '../flood.js';

const ROOMS = 150;

const attack: Attack = {
  kind: 'messages',
  title: 'plain: SUBSCRIBE to 300 rooms, 150 at a time, as fast as it goes',
  run: (target, outcome, stop) => {
    const subscribe = (from: number): Buffer => {
      const rooms = target.jobs.slice(from, from + ROOMS).map((job) => `job:${job}`);
      return clientFrame(JSON.stringify({ type: 'SUBSCRIBE', data: { rooms } }));
    };
    const frame = Buffer.concat([subscribe(0), subscribe(ROOMS)]);
    return flood(target, outcome, stop, { open: openPlain, frame, connections: 4 });
  },
  verify({ closes, codes }) {
    expect(codes).to.have.property('TOO_MANY_ROOMS');
    expect(closes).to.have.property('4029');
  },
};
export default attack;
