import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { again, silentSocket } from '../flood.js';
import { changeJob, fillJob } from '../sql.js';

const AT_ONCE = 200;
const TASKS = 2_000;
const BYTES = 8_000;

const attack: Attack = {
  kind: 'readers',
  title: 'SSE and NDJSON: 200 streams that replay all, of which nothing is read',
  async prepare(target) {
    await fillJob(target, { tasks: TASKS, bytes: BYTES });
    await changeJob(target);
  },
  run(target, outcome, stop) {
    const types = ['text/event-stream', 'application/x-ndjson'];
    const path = `/api/jobs/${target.jobs[0]}/events`;
    return again(stop, AT_ONCE, (n) =>
      silentSocket(
        target,
        outcome,
        `GET ${path}${n % 3 === 0 ? '?since=0' : ''} HTTP/1.1\r\nHost: a\r\nAccept: ${types[n % 2]}\r\nX-Api-Key: ${target.key}\r\n\r\n`,
        '\r\n',
      ),
    );
  },
  // Ten of the address are let in, and end when nothing of them was taken for ten seconds; the others are refused.
  verify: ({ closes }) => expect(closes['cut'] ?? 0).to.be.above(AT_ONCE),
};
export default attack;
