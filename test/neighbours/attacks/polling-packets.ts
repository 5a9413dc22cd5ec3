import { expect } from 'chai';
import { NAMESPACE } from '../../../src/protocol/paths.js';
import type { Attack } from '../attack.js';
import { again } from '../flood.js';
import { send } from '../rest.js';

const PACKET = `42${NAMESPACE},["NOTHING"]`;
const PACKETS = 1_000;
const BASE = '/socket.io/?EIO=4&transport=polling';
/** What a connection may send in ten seconds, and once more as much. */
const BURST = 1_000;
const PER_SECOND = 50;

const attack: Attack = {
  kind: 'messages',
  title: 'Socket.IO: polls with a thousand packets each',
  run(target, outcome, stop) {
    const body = Array<string>(PACKETS).fill(PACKET).join('\x1e').slice(0, 32_000);
    const packets = body.split('\x1e').slice(0, -1).join('\x1e');
    const call = { headers: { 'content-type': 'text/plain' }, key: null };
    let taken = 0;
    return again(stop, 1, async () => {
      const hello = await send(target, outcome, { ...call, path: BASE });
      const path = `${BASE}&sid=${(JSON.parse(hello.text.slice(1)) as { sid: string }).sid}`;
      outcome.opened += 1;
      const read = async (): Promise<void> => {
        while (!stop.aborted && (await send(target, outcome, { ...call, path })).status === 200) {
          // What it brings concerns nobody.
        }
      };
      void read().catch(() => {});
      await send(target, outcome, { ...call, path, body: `40${NAMESPACE},{"api_key":"${target.key}"}` });
      for (let ok = true; ok && !stop.aborted; ) {
        ok = (await send(target, outcome, { ...call, path, body: packets })).status === 200;
        taken += ok ? packets.length : 0;
        outcome.bytes = taken;
      }
    });
  },
  verify({ opened, bytes, statuses }, seconds) {
    expect(bytes / PACKET.length).to.be.below(opened * BURST + seconds * PER_SECOND);
    expect(Object.keys(statuses)).to.include('400');
  },
};
export default attack;
