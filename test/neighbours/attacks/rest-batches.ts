import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { type Attack, count } from '../attack.js';

const AT_ONCE = 60;
const ITEMS = 500;

const attack: Attack = {
  title: 'REST: 60 batches of 500 tasks at once, again and again',
  async run({ port, key, jobs }, outcome, stop) {
    const body = JSON.stringify(Array.from({ length: ITEMS }, () => ({ job_id: jobs[0], task_definition_id: 1 })));
    const one = async (): Promise<void> => {
      while (!stop.aborted) {
        try {
          const response = await fetch(`http://127.0.0.1:${port}/api/tasks`, {
            method: 'POST',
            headers: { 'x-api-key': key, 'content-type': 'application/json' },
            body,
            signal: stop,
          });
          count(outcome.statuses, response.status);
          await response.text();
        } catch {
          await sleep(100);
        }
        await sleep(50);
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, one));
  },
  verify({ statuses }, seconds) {
    // 600 requests a minute are one such batch.
    expect(statuses['201'] ?? 0).to.be.most(1 + Math.floor(seconds / 60));
    expect(statuses['429'] ?? 0).to.be.above(AT_ONCE);
  },
};
export default attack;
