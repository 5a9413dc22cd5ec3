import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { again, silentSocket } from '../flood.js';

const AT_ONCE = 400;
const BYTES = 1_000_000;
const BODY = ' '.repeat(BYTES - 1_000);

const attack: Attack = {
  kind: 'readers',
  title: 'REST: 400 bodies of a megabyte whose last kilobyte comes byte by byte',
  run: (target, outcome, stop) =>
    again(stop, AT_ONCE, (n) => {
      const head = [
        `PUT /api/tasks/${target.tasks[n % 300]}/fee HTTP/1.1`,
        'Host: a',
        `X-Api-Key: ${target.key}`,
        'Content-Type: application/json',
        `Content-Length: ${BYTES}`,
      ];
      return silentSocket(target, outcome, `${head.join('\r\n')}\r\n\r\n${BODY}`, ' ');
    }),
  // Those that come at a time are bounded, so are those that wait for that, and each has a minute.
  verify: ({ opened, closes }) => {
    expect(opened).to.be.least(AT_ONCE);
    expect(closes['cut'] ?? 0).to.be.above(10);
  },
};
export default attack;
