import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { flood, openPlain } from '../flood.js';

/** A text message that does not end, and a piece of it that is empty. */
const BEGIN = Buffer.of(1, 0x80, 0, 0, 0, 0);
const PIECE = Buffer.of(0, 0x80, 0, 0, 0, 0);

const attack: Attack = {
  kind: 'messages',
  title: 'plain: a message in endless empty pieces',
  run: (target, outcome, stop) =>
    flood(target, outcome, stop, { open: openPlain, begin: BEGIN, frame: PIECE, connections: 2 }),
  verify: ({ closes }) => expect(closes).to.have.property('4029'),
};
export default attack;
