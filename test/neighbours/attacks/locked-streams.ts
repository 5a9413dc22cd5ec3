import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import type { Attack } from '../attack.js';
import { again } from '../flood.js';
import { send } from '../rest.js';
import { withClient } from '../sql.js';

const STREAMS = 60;
const HELD_MS = 12_000;

/** Users of its own, whose jobs and tasks have ids below those of any honest user. */
const user = (target: { readonly owner: string }, n: number): string => `${target.owner}_${n}`;

const attack: Attack = {
  kind: 'database',
  title: 'SQL: keeps the streams of 60 users for 12 s at a time, and three writes to each wait',
  role: 'service',
  rateLimit: 1_000_000_000,
  prepare: (target) =>
    withClient(target, async (client) => {
      const users = Array.from({ length: STREAMS }, (_, n) => user(target, n));
      await client.query('INSERT INTO users SELECT unnest($1::text[])', [users]);
      await client.query(
        'INSERT INTO jobs SELECT $2::numeric + n - 1, u FROM unnest($1::text[]) WITH ORDINALITY o (u, n)',
        [users, `${target.jobs[0]}000`],
      );
      await client.query(
        `INSERT INTO tasks (job_id, user_id, task_definition_id, is_imua, task_status, created_at)
         SELECT job_id, user_id, 1, false, 'pending', now() FROM jobs WHERE user_id = ANY ($1)`,
        [users],
      );
    }),
  async run(target, outcome, stop) {
    const users = Array.from({ length: STREAMS }, (_, n) => user(target, n));
    const { rows } = await withClient(target, (client) =>
      client.query<{ task_id: string }>('SELECT task_id FROM tasks WHERE user_id = ANY ($1)', [users]),
    );
    await Promise.all([
      again(stop, 1, () =>
        withClient(target, async (client) => {
          await client.query('BEGIN');
          await client.query('SELECT FROM event_streams WHERE user_id = ANY ($1) FOR UPDATE', [users]);
          await sleep(HELD_MS, undefined, { signal: stop }).catch(() => {});
          await client.query('COMMIT');
        }),
      ),
      again(stop, 3 * STREAMS, (n) =>
        send(target, outcome, {
          method: 'PUT',
          path: `/api/tasks/${rows[n % STREAMS]!.task_id}/fee`,
          body: { fee: n },
        }),
      ),
    ]);
  },
  verify: ({ codes }) => expect(codes).to.have.property('STREAM_BUSY'),
};
export default attack;
