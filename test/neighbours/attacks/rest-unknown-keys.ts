import { expect } from 'chai';
import { newApiKey } from '../../../src/protocol/api-key-form.js';
import type { Attack } from '../attack.js';
import { hammer } from '../rest.js';

const AT_ONCE = 50;
/** Of one address, in each of two workers: a minute's at once, and some that come back. */
const ALLOWED = 2 * 30;

const attack: Attack = {
  kind: 'door',
  title: 'REST: random well-formed keys from one address, 50 at a time',
  run: (target, outcome, stop) =>
    hammer(target, outcome, stop, { atOnce: AT_ONCE, callOf: () => ({ path: '/api/jobs', key: newApiKey() }) }),
  verify({ statuses }, seconds) {
    expect(statuses['429'] ?? 0).to.be.above(AT_ONCE);
    expect(statuses['401'] ?? 0).to.be.below(ALLOWED + seconds);
  },
};
export default attack;
