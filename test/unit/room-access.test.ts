import type { IncomingMessage } from 'node:http';
import { expect } from 'chai';
import { createDoor, type DoorOptions } from '../../src/door/door.js';
import { originCheck } from '../../src/door/origin.js';
import { RateLimiter, rateLimitHeaders } from '../../src/door/rate-limit.js';
import { RoomAccess } from '../../src/door/room-access.js';
import { TaskwireError } from '../../src/protocol/errors.js';
import { parseRoom } from '../../src/protocol/rooms.js';
import type { Identity, Role } from '../../src/protocol/tasks.js';
import { eventually } from '../support/eventually.js';
import { FakeBrokers } from '../support/fake-broker.js';
import { refusal, refusalCode } from '../support/refusal.js';

const identityOf = (owner: string, role: Role = 'user', rateLimit = 600): Identity => ({
  keyId: `key-of-${owner}`,
  owner,
  role,
  rateLimit,
});

describe('room access', () => {
  const owners = new Map(['job:1', 'task:10', 'user:ada'].map((name) => [name, { userId: 'ada' }]));
  let asked: string[];
  let access: RoomAccess;
  beforeEach(() => {
    asked = [];
    access = new RoomAccess(async (rooms) => {
      asked.push(...rooms.map(({ name }) => name));
      return owners;
    });
  });
  const resolve = async (identity: Identity, name: string) => (await access.resolve(identity, parseRoom(name))).userId;

  it("gives an owner its rooms, and other roles everybody's", async () => {
    for (const identity of [identityOf('ada'), identityOf('ops', 'service'), identityOf('ops', 'admin')]) {
      for (const name of owners.keys()) {
        expect(await resolve(identity, name)).to.equal('ada');
      }
    }
    expect(asked, 'owners are remembered').to.deep.equal([...owners.keys()]);
  });

  it("does not tell a user whether somebody else's room exists", async () => {
    const refusals = await Promise.all(
      ['job:1', 'job:2', 'task:10', 'task:11', 'user:ada', 'user:nobody'].map((name) =>
        refusal(() => resolve(identityOf('eve'), name)),
      ),
    );
    expect(new Set(refusals.map(({ body }) => JSON.stringify(body))).size).to.equal(1);
    expect(refusals[0]!.code).to.equal('ACCESS_DENIED');
    expect(asked, 'users are not looked up').to.not.include('user:nobody');
  });

  it('tells other roles that a room does not exist, for as long as it does not', async () => {
    const service = identityOf('ops', 'service');
    expect(await refusalCode(() => resolve(service, 'job:2'))).to.equal('NOT_FOUND');
    expect(await refusalCode(() => resolve(service, 'user:nobody'))).to.equal('NOT_FOUND');
    owners.set('job:2', { userId: 'bob' });
    expect(await resolve(service, 'job:2')).to.equal('bob');
    owners.delete('job:2');
  });

  it('forgets an owner after a moment: a task may go to another user', async () => {
    const moving = new Map([['task:10', { userId: 'ada' }]]);
    access = new RoomAccess(async () => moving, 10, 20);
    const service = identityOf('ops', 'service');
    expect(await resolve(service, 'task:10')).to.equal('ada');
    moving.set('task:10', { userId: 'bob' });
    await eventually(async () => expect(await resolve(service, 'task:10')).to.equal('bob'));
    expect(await refusalCode(() => resolve(identityOf('ada'), 'task:10'))).to.equal('ACCESS_DENIED');
    expect(await resolve(identityOf('bob'), 'task:10')).to.equal('bob');
  });

  it('asks once for what many want at a time', async () => {
    await Promise.all(Array.from({ length: 50 }, () => resolve(identityOf('ada'), 'job:1')));
    expect(asked).to.have.length(1);
  });

  it('passes an outage on and remembers nothing of it', async () => {
    let down = true;
    access = new RoomAccess(async () => {
      if (down) {
        throw new TaskwireError('DATABASE_UNAVAILABLE');
      }
      return new Map([['job:1', { userId: 'ada' }]]);
    });
    expect(await refusalCode(() => resolve(identityOf('ada'), 'job:1'))).to.equal('DATABASE_UNAVAILABLE');
    down = false;
    expect(await resolve(identityOf('ada'), 'job:1')).to.equal('ada');
  });
});

describe('rate limit', () => {
  it("refuses what is over the key's own limit and says when to come back", async () => {
    const limiter = new RateLimiter(new FakeBrokers().add('n1'));
    const identity = identityOf('ada', 'user', 2);
    expect((await limiter.check(identity)).remaining).to.equal(1);
    await limiter.check(identity);
    await limiter.check(identityOf('bob', 'user', 1));
    const { code, body } = await refusal(() => limiter.check(identity));
    expect(code).to.equal('RATE_LIMIT_EXCEEDED');
    expect(body.retry_after_ms).to.equal(30_000);
    expect(body.details).to.include({ limit: 2, remaining: 0 });
  });

  it('has its headers', () => {
    const headers = rateLimitHeaders({ allowed: true, limit: 5, remaining: 3, resetMs: 10_000 });
    expect(headers).to.include({ 'X-RateLimit-Limit': '5', 'X-RateLimit-Remaining': '3' });
    expect(Number(headers['X-RateLimit-Reset'])).to.be.closeTo(Date.now() / 1_000 + 10, 2);
  });
});

describe('door', () => {
  let brokers: FakeBrokers;
  let identity: Identity;
  beforeEach(() => {
    brokers = new FakeBrokers();
    identity = identityOf('ada');
  });

  const visit = (overrides: Partial<DoorOptions> = {}, headers: Record<string, string> = {}) => {
    const broker = brokers.add('n1');
    const admit = createDoor({
      checkOrigin: originCheck(['https://good.example']),
      keys: { revision: 0, authenticate: async () => identity },
      rates: new RateLimiter(broker),
      addressOf: () => '2001:db8::1',
      connections: broker,
      maxConnectionsPerIp: 2,
      ...overrides,
    });
    return admit({ request: { headers, url: '/api/ws/tasks' } as unknown as IncomingMessage });
  };
  const taken = (): number => brokers.places.get('2001:db8:0:0::/64') ?? 0;

  it('lets in, takes a place of the address and gives it back', async () => {
    const { address, release, ...admission } = await visit();
    expect(admission.identity).to.equal(identity);
    expect(address).to.equal('2001:db8::1');
    expect(taken()).to.equal(1);
    release();
    release();
    expect(taken()).to.equal(0);
  });

  it('refuses the connection that is one too many, until one goes', async () => {
    const first = await visit();
    await visit();
    const { code, body } = await refusal(() => visit());
    expect(code).to.equal('RATE_LIMIT_EXCEEDED');
    expect(body.message).to.match(/connections/);
    expect(body.retry_after_ms).to.be.greaterThan(0);
    first.release();
    await visit();
    expect(taken()).to.equal(2);
  });

  it('asks nobody about a bad origin', async () => {
    const authenticate = async (): Promise<Identity> => {
      throw new Error('was asked');
    };
    const code = await refusalCode(() =>
      visit({ keys: { revision: 0, authenticate } }, { origin: 'https://bad.example' }),
    );
    expect(code).to.equal('ORIGIN_NOT_ALLOWED');
  });

  it('takes nothing without a good key', async () => {
    const authenticate = async (): Promise<Identity> => {
      throw new TaskwireError('INVALID_API_KEY');
    };
    expect(await refusalCode(() => visit({ keys: { revision: 0, authenticate } }))).to.equal('INVALID_API_KEY');
    expect(brokers.rates.size + brokers.places.size).to.equal(0);
  });

  it('gives the place back when the rate limit, or the key in the end, refuses', async () => {
    identity = identityOf('ada', 'user', 1);
    (await visit()).release();
    expect(await refusalCode(() => visit())).to.equal('RATE_LIMIT_EXCEEDED');
    expect(taken()).to.equal(0);

    identity = identityOf('bob');
    const keys = {
      revision: 0,
      authenticate: async (): Promise<Identity> => {
        if (keys.revision > 0) {
          throw new TaskwireError('INACTIVE_API_KEY');
        }
        setImmediate(() => {
          keys.revision += 1;
        });
        return identity;
      },
    };
    const rates = {
      check: async () => {
        await new Promise((resolve) => setTimeout(resolve, 10));
        return { allowed: true, limit: 1, remaining: 0, resetMs: 0 };
      },
    };
    expect(await refusalCode(() => visit({ keys, rates }))).to.equal('INACTIVE_API_KEY');
    expect(taken()).to.equal(0);
  });
});
