import { expect } from 'chai';
import { clientFrame } from '../../support/hostile-client.js';
import type { Attack } from '../attack.js';
import { flood, openPlain } from '../flood.js';

/** One more than MAX_MESSAGE_BYTES. */
const BYTES = 32_769;

const attack: Attack = {
  kind: 'messages',
  title: 'plain: messages of more than 32 kB',
  run: (target, outcome, stop) =>
    flood(target, outcome, stop, { open: openPlain, frame: clientFrame('x'.repeat(BYTES)), connections: 4 }),
  verify: ({ closes }) => expect(closes).to.have.property('1009'),
};
export default attack;
