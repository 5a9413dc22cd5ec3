import { expect } from 'chai';
import { clientFrame } from '../../support/hostile-client.js';
import type { Attack } from '../attack.js';
import { flood, openEngine } from '../flood.js';

/** Bytes that a stranger's socket may hold: what the systems of both sides keep, and what is read in ten seconds. */
const BYTES_PER_SOCKET = 12_000_000;

const attack: Attack = {
  kind: 'messages',
  title: 'Engine.IO: 20 sockets without a key flood packets',
  run: (target, outcome, stop) =>
    flood(target, outcome, stop, {
      open: openEngine,
      first: /^0/,
      frame: clientFrame('40/nowhere,'),
      connections: 20,
    }),
  verify({ opened, bytes, closes }) {
    // Cut off for what it sends, or closed since nobody came into the namespace: both come after ten seconds.
    expect(closes).to.have.any.keys('1005', '1006');
    expect(bytes).to.be.below(opened * BYTES_PER_SOCKET);
  },
};
export default attack;
