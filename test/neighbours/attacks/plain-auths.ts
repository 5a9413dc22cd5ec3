import { expect } from 'chai';
import { newApiKey } from '../../../src/protocol/api-key-form.js';
import { clientFrame } from '../../support/hostile-client.js';
import type { Attack } from '../attack.js';
import { flood, openPlain } from '../flood.js';

const auth = (key: string): Buffer => clientFrame(JSON.stringify({ type: 'AUTH', data: { api_key: key } }));

const attack: Attack = {
  kind: 'messages',
  title: 'plain: AUTH with its own key and with wrong ones, and a PING after each',
  run: (target, outcome, stop) =>
    flood(target, outcome, stop, {
      open: openPlain,
      frame: Buffer.concat([
        auth(target.key),
        clientFrame('{"type":"PING"}'),
        auth(newApiKey()),
        clientFrame('{"type":"PING"}'),
      ]),
      connections: 4,
    }),
  verify: ({ closes }) => expect(closes).to.have.property('4029'),
};
export default attack;
