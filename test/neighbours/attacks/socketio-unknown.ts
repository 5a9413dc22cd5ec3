import { expect } from 'chai';
import { NAMESPACE } from '../../../src/protocol/paths.js';
import { clientFrame } from '../../support/hostile-client.js';
import type { Attack } from '../attack.js';
import { flood, openSocketio } from '../flood.js';

const attack: Attack = {
  kind: 'messages',
  title: 'Socket.IO: unknown events',
  run: (target, outcome, stop) =>
    flood(target, outcome, stop, {
      open: openSocketio,
      first: /^40/,
      frame: clientFrame(`42${NAMESPACE},["NOTHING",{}]`),
      connections: 2,
    }),
  verify: ({ closes }) => expect(closes).to.have.property('4029'),
};
export default attack;
