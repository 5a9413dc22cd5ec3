import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { NAMESPACE } from '../../../src/protocol/paths.js';
import { type Attack, count } from '../attack.js';

const PACKET = `42${NAMESPACE},["NOTHING"]`;
const PACKETS = 1_000;
/** What a connection may send in ten seconds, and once more as much. */
const BURST = 1_000;
const PER_SECOND = 50;

const attack: Attack = {
  title: 'Socket.IO: polls with a thousand packets each',
  async run({ port, key }, outcome, stop) {
    const base = `http://127.0.0.1:${port}/socket.io/?EIO=4&transport=polling`;
    const body = Array<string>(PACKETS).fill(PACKET).join('\x1e').slice(0, 32_000);
    const packets = body.split('\x1e').slice(0, -1).join('\x1e');
    while (!stop.aborted) {
      try {
        const hello = await (await fetch(base)).text();
        const url = `${base}&sid=${(JSON.parse(hello.slice(1)) as { sid: string }).sid}`;
        outcome.opened += 1;
        const read = async (): Promise<void> => {
          while (!stop.aborted && (await fetch(url, { signal: stop })).ok) {
            // What it brings concerns nobody.
          }
        };
        void read().catch(() => {});
        await fetch(url, { method: 'POST', body: `40${NAMESPACE},{"api_key":"${key}"}`, signal: stop });
        for (let ok = true; ok && !stop.aborted; ) {
          const response = await fetch(url, { method: 'POST', body: packets, signal: stop });
          count(outcome.statuses, response.status);
          ok = response.ok;
          outcome.bytes += ok ? packets.length : 0;
        }
      } catch {
        await sleep(100);
      }
    }
  },
  verify({ opened, bytes, statuses }, seconds) {
    expect(bytes / PACKET.length).to.be.below(opened * BURST + seconds * PER_SECOND);
    expect(Object.keys(statuses)).to.include('400');
  },
};
export default attack;
