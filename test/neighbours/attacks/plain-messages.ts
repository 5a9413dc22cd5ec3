import { expect } from 'chai';
import { clientFrame } from '../../support/hostile-client.js';
import type { Attack } from '../attack.js';
import { flood, openPlain } from '../flood.js';

const attack: Attack = {
  kind: 'messages',
  title: 'plain: PING as fast as it goes',
  run: (target, outcome, stop) =>
    flood(target, outcome, stop, { open: openPlain, frame: clientFrame('{"type":"PING"}'), connections: 2 }),
  verify: ({ closes }) => expect(closes).to.have.property('4029'),
};
export default attack;
