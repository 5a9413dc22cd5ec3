import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { type Attack, count } from './attack.js';

/** A worker that hangs, until it is replaced. */
export const hang = (how: string, signal: NodeJS.Signals): Attack => ({
  kind: 'workers',
  title: `one of three workers ${how}`,
  long: true,
  hangs: true,
  // A request of each kind may have been on its way to it.
  mayFail: 2,
  async run({ workers: [pid] }, outcome, stop) {
    process.kill(pid!, signal);
    while (!stop.aborted) {
      try {
        process.kill(pid!, 0);
      } catch {
        count(outcome.closes, 'replaced');
        return;
      }
      await sleep(200);
    }
  },
  verify: ({ closes }) => expect(closes).to.have.property('replaced'),
});
