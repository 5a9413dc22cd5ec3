import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { again } from '../flood.js';
import { send } from '../rest.js';
import { withClient } from '../sql.js';

const AT_ONCE = 60;
const HELD_MS = 12_000;

const attack: Attack = {
  kind: 'database',
  title: 'SQL: keeps one row for 12 s at a time, and 60 writes to it wait',
  rateLimit: 1_000_000_000,
  async run(target, outcome, stop) {
    await Promise.all([
      again(stop, 1, () =>
        withClient(target, async (client) => {
          await client.query('BEGIN');
          await client.query('UPDATE tasks SET task_error = $2 WHERE task_id = $1', [target.tasks[0], 'held']);
          await sleep(HELD_MS, undefined, { signal: stop }).catch(() => {});
          await client.query('COMMIT');
        }),
      ),
      again(stop, AT_ONCE, (n) =>
        send(target, outcome, { method: 'PUT', path: `/api/tasks/${target.tasks[0]}/fee`, body: { fee: n } }),
      ),
    ]);
  },
  verify: ({ codes }) => expect(codes).to.have.property('STREAM_BUSY'),
};
export default attack;
