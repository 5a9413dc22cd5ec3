import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import WebSocket from 'ws';
import { newApiKey } from '../../../src/protocol/api-key-form.js';
import { NAMESPACE } from '../../../src/protocol/paths.js';
import type { Attack } from '../attack.js';
import { ready } from '../flood.js';

const AT_ONCE = 50;
/** Of one address, in each of two workers: a minute's at once, and some that come back. */
const ALLOWED = 2 * 30;

const attack: Attack = {
  kind: 'door',
  title: 'random well-formed keys from one address, 50 at a time',
  async run({ port, address }, outcome, stop) {
    const one = async (): Promise<void> => {
      while (!stop.aborted) {
        const url = `ws://127.0.0.1:${port}${NAMESPACE}?api_key=${newApiKey()}`;
        const ws = new WebSocket(url, { localAddress: address });
        const closed = new Promise((resolve) => ws.once('close', resolve));
        try {
          await ready(ws, outcome, undefined);
          await closed;
        } catch {
          await sleep(10);
        }
        ws.terminate();
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, one));
  },
  verify({ closes, statuses }, seconds) {
    expect(statuses).to.have.property('429');
    expect(closes['4502'] ?? 0).to.be.below(ALLOWED + seconds);
  },
};
export default attack;
