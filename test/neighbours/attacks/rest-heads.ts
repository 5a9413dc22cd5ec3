import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { hammer } from '../rest.js';

const AT_ONCE = 30;
const BYTES = 60_000;

const attack: Attack = {
  kind: 'door',
  title: 'REST: heads of 60 kB, 30 at a time',
  run: (target, outcome, stop) =>
    hammer(target, outcome, stop, {
      atOnce: AT_ONCE,
      callOf: () => ({ path: '/api/jobs', headers: { 'x-more': 'x'.repeat(BYTES) } }),
    }),
  verify: ({ statuses }) => expect(statuses['431'] ?? 0).to.be.above(AT_ONCE),
};
export default attack;
