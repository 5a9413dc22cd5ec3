import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { again, silentSocket } from '../flood.js';

const AT_ONCE = 800;
/** A third says nothing, a third stops within the request line, a third within the head. */
const BEGINNINGS = ['', 'GET /api', 'GET /api/jobs HTTP/1.1\r\nHost: a\r\n'];

const attack: Attack = {
  kind: 'door',
  title: '800 connections that say a byte of the head of a request every half second',
  run: (target, outcome, stop) =>
    again(stop, AT_ONCE, (n) => silentSocket(target, outcome, BEGINNINGS[n % BEGINNINGS.length]!, 'x')),
  // Those that are too many go first.
  verify: ({ closes }) => expect(closes['cut'] ?? 0).to.be.above(AT_ONCE),
};
export default attack;
