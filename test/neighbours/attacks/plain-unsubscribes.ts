import { expect } from 'chai';
import { clientFrame } from '../../support/hostile-client.js';
import type { Attack } from '../attack.js';
import { flood, openPlain } from '../flood.js';

const ROOMS = 256;

const attack: Attack = {
  kind: 'messages',
  title: 'plain: UNSUBSCRIBE of 256 rooms as fast as it goes',
  run: (target, outcome, stop) => {
    const rooms = target.jobs.slice(0, ROOMS).map((job) => `job:${job}`);
    const frame = clientFrame(JSON.stringify({ type: 'UNSUBSCRIBE', data: { rooms } }));
    return flood(target, outcome, stop, { open: openPlain, frame, connections: 4 });
  },
  verify: ({ closes }) => expect(closes).to.have.property('4029'),
};
export default attack;
