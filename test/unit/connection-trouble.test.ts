import { EventEmitter } from 'node:events';
import { expect } from 'chai';
import { ConnectionTrouble } from '../../src/broker/redis/connection-trouble.js';

const NO_PLACE = new Error('ERR max number of clients reached');
const RESET = Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' });
const REFUSED = Object.assign(new Error('connect ECONNREFUSED'), { code: 'ECONNREFUSED' });

describe('trouble of a connection to Redis', () => {
  /** @returns its code after each attempt to connect that fails in these ways */
  function codesAfter(attempts: ReadonlyArray<Error | undefined>): Array<string | undefined> {
    const client = Object.assign(new EventEmitter(), { status: 'connecting' as const });
    const codes: Array<string | undefined> = [];
    const trouble = new ConnectionTrouble(client as never, () => {});
    for (const error of attempts) {
      client.emit('connecting');
      client.emit('connect');
      if (error !== undefined) {
        client.emit('error', error);
      }
      client.emit('close');
      codes.push(trouble.fault?.code);
    }
    return codes;
  }

  it('stays that of a server without a free place when the next refusals are lost on the way', () => {
    expect(codesAfter([RESET, NO_PLACE, RESET, undefined, NO_PLACE])).to.deep.equal([
      'ECONNRESET',
      ...Array<string>(4).fill('MAX_CLIENTS'),
    ]);
  });

  it('is another one when something else is wrong then', () => {
    expect(codesAfter([NO_PLACE, REFUSED, RESET])).to.deep.equal(['MAX_CLIENTS', 'ECONNREFUSED', 'ECONNRESET']);
  });
});
