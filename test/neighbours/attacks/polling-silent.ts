import { expect } from 'chai';
import { NAMESPACE } from '../../../src/protocol/paths.js';
import type { Attack } from '../attack.js';
import { again } from '../flood.js';
import { send } from '../rest.js';
import { fillJob } from '../sql.js';

const AT_ONCE = 20;
const BASE = '/socket.io/?EIO=4&transport=polling';

const attack: Attack = {
  kind: 'readers',
  title: 'Socket.IO: sessions over polling that ask for snapshots and never poll',
  prepare: (target) => fillJob(target, { tasks: 2_000, bytes: 8_000 }),
  run(target, outcome, stop) {
    const call = { headers: { 'content-type': 'text/plain' }, key: null };
    const subscribe = `42${NAMESPACE},["SUBSCRIBE",{"room":"job:${target.jobs[0]}","snapshot":{"parts":true}}]`;
    return again(stop, AT_ONCE, async () => {
      const hello = await send(target, outcome, { ...call, path: BASE });
      const path = `${BASE}&sid=${(JSON.parse(hello.text.slice(1)) as { sid: string }).sid}`;
      outcome.opened += 1;
      await send(target, outcome, { ...call, path, body: `40${NAMESPACE},{"api_key":"${target.key}"}` });
      for (let ok = true; ok && !stop.aborted; ) {
        ok = (await send(target, outcome, { ...call, path, body: subscribe })).status === 200;
      }
    });
  },
  // Closed, as nothing of what waits was taken, or not let in, as the address has no place left.
  verify: ({ statuses }) => expect(statuses['400'] ?? 0).to.be.above(AT_ONCE / 4),
};
export default attack;
