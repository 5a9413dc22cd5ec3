import { IncomingMessage } from 'node:http';
import { Socket } from 'node:net';
import { expect } from 'chai';
import { type Admit, createDoor } from '../../src/door/door.js';
import { RateLimiter } from '../../src/door/rate-limit.js';
import { TaskwireError } from '../../src/protocol/errors.js';
import { FakeBrokers } from '../support/fake-broker.js';
import { refusalCode } from '../support/refusal.js';

describe('the door', () => {
  const identity = { keyId: 'key', owner: 'ada', role: 'user' as const, rateLimit: 2 };
  const visitor = { request: Object.assign(new IncomingMessage(new Socket()), { url: '/' }) };
  let brokers: FakeBrokers;
  let revision: number;
  let looksKeyUp: () => void;

  beforeEach(() => {
    brokers = new FakeBrokers();
    revision = 0;
    looksKeyUp = () => {};
  });

  function doorOf(limits: { connections: number }): Admit {
    const broker = brokers.add('node');
    return createDoor({
      checkOrigin: () => {},
      keys: {
        get revision() {
          return revision;
        },
        authenticate: async () => {
          looksKeyUp();
          return identity;
        },
      },
      rates: new RateLimiter(broker),
      addressOf: () => '127.0.0.1',
      connections: broker,
      maxConnectionsPerIp: limits.connections,
    });
  }
  const places = (): number[] => [...brokers.places.values()];

  it('counts a connection among the requests of its key, and gives a place back that was taken in vain', async () => {
    const admit = doorOf({ connections: 10 });
    await admit(visitor);
    await admit(visitor);
    expect(await refusalCode(() => admit(visitor))).to.equal('RATE_LIMIT_EXCEEDED');
    expect(places()).to.deep.equal([2]);
  });

  it('has so many places for an address, which are given back', async () => {
    const admit = doorOf({ connections: 1 });
    const { release } = await admit(visitor);
    expect(await refusalCode(() => admit(visitor))).to.equal('RATE_LIMIT_EXCEEDED');
    release();
    expect(places()).to.deep.equal([0]);
  });

  it('looks a key up again that may have been revoked while the connection was let in', async () => {
    const admit = doorOf({ connections: 10 });
    looksKeyUp = () => {
      // Good at the first look; the revocation is heard before it is answered.
      revision += 1;
      looksKeyUp = () => {
        throw new TaskwireError('INACTIVE_API_KEY');
      };
    };
    expect(await refusalCode(() => admit(visitor))).to.equal('INACTIVE_API_KEY');
    expect(places()).to.deep.equal([0]);
  });
});
