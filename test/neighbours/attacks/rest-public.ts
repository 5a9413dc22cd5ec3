import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { hammer } from '../rest.js';

const AT_ONCE = 50;
const PATHS = ['/api/ws/health', '/api/openapi.json', '/api/asyncapi.json', '/api/ws/stats', '/no/such/path'];

const attack: Attack = {
  kind: 'door',
  title: 'REST: what needs no key, and what does, without one, 50 at a time',
  run: (target, outcome, stop) =>
    hammer(target, outcome, stop, { atOnce: AT_ONCE, callOf: (n) => ({ path: PATHS[n % PATHS.length]!, key: null }) }),
  // Nothing is looked up for it, and one request waits for one of another address at most.
  verify: ({ statuses }) => expect(Object.keys(statuses)).to.include.members(['200', '404']),
};
export default attack;
