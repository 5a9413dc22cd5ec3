import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { hammer } from '../rest.js';

const AT_ONCE = 20;
/** More than MAX_BODY_BYTES. */
const BODY = ' '.repeat(3_000_000);

const attack: Attack = {
  kind: 'requests',
  title: 'REST: bodies of 3 MB, 20 at a time',
  run: (target, outcome, stop) =>
    hammer(target, outcome, stop, { atOnce: AT_ONCE, callOf: () => ({ path: '/api/tasks', body: BODY }) }),
  verify: ({ codes }) => expect(codes['PAYLOAD_TOO_LARGE'] ?? 0).to.be.above(AT_ONCE),
};
export default attack;
