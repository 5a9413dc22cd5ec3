import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { openPlain, ready } from '../flood.js';
import { hammer } from '../rest.js';

const AT_ONCE = 10;
const SUBSCRIBERS = 8;
/** 56 kB of text, and 2.9 MB as Postgres prints them. */
const ARGUMENTS = `{"converted_arguments":[${Array<string>(9_400).fill('1e308').join(',')}]}`;
/** As many as are allowed: with all digits they are 65 kB. */
const ALLOWED = `{"converted_arguments":[${Array<string>(200).fill('1e308').join(',')}]}`;

const attack: Attack = {
  kind: 'requests',
  title: 'REST: converted_arguments with thousands of 1e308, and eight who are told of each',
  async run(target, outcome, stop) {
    for (let n = 0; n < SUBSCRIBERS; n += 1) {
      const ws = openPlain(target);
      await ready(ws, outcome, undefined).then(
        () => ws.send(JSON.stringify({ type: 'SUBSCRIBE', data: { room: `task:${target.tasks[0]}` } })),
        () => {},
      );
    }
    await hammer(target, outcome, stop, {
      atOnce: AT_ONCE,
      callOf: (n) => ({
        method: 'PUT',
        path: `/api/tasks/execution/${target.tasks[0]}`,
        body: n % 2 === 0 ? ARGUMENTS : ALLOWED,
      }),
    });
  },
  verify({ codes, statuses }) {
    expect(codes).to.have.property('INVALID_REQUEST');
    expect(statuses['200'] ?? 0).to.be.above(AT_ONCE);
  },
};
export default attack;
