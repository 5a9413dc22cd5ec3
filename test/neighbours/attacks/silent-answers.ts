import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { again, silentSocket } from '../flood.js';
import { changeJob, fillJob } from '../sql.js';

const AT_ONCE = 300;
const TASKS = 2_000;
const BYTES = 8_000;

const attack: Attack = {
  kind: 'readers',
  title: 'REST: pages and histories of megabytes, 300 at a time, of which nothing is read',
  async prepare(target) {
    await fillJob(target, { tasks: TASKS, bytes: BYTES });
    await changeJob(target);
  },
  run(target, outcome, stop) {
    const [job] = target.jobs;
    const paths = [`/api/tasks/job/${job}?limit=1000`, `/api/jobs/${job}/events?limit=1000`, '/api/openapi.json'];
    return again(stop, AT_ONCE, (n) =>
      silentSocket(
        target,
        outcome,
        `GET ${paths[n % paths.length]} HTTP/1.1\r\nHost: a\r\nX-Api-Key: ${target.key}\r\n\r\n`,
        '\r\n',
      ),
    );
  },
  verify: ({ closes }) => expect(closes['cut'] ?? 0).to.be.above(30),
};
export default attack;
