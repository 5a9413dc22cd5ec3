import { expect } from 'chai';
import { TokenKeys } from '../../src/door/token-keys.js';
import { Tokens } from '../../src/door/tokens.js';
import type { Identity } from '../../src/protocol/tasks.js';
import { eventually } from '../support/eventually.js';
import { refusalCode } from '../support/refusal.js';

const MAKER: Identity = { keyId: 'k1', owner: 'ada', role: 'user', rateLimit: 7 };

describe('keys behind tokens', () => {
  let asked: string[][];
  let answer: () => Promise<ReadonlySet<string>>;
  let inactive: string[];
  let time: number;
  let keys: TokenKeys;
  let tokens: Tokens;
  beforeEach(() => {
    asked = [];
    inactive = [];
    time = 0;
    answer = async () => new Set(['k1']);
    keys = new TokenKeys({
      active: (keyIds) => {
        asked.push([...keyIds]);
        return answer();
      },
      cacheMs: 1_000,
      onInactive: (keyId) => inactive.push(keyId),
      now: () => time,
    });
    tokens = new Tokens({ secrets: ['s'.repeat(32)], isActive: (keyId) => keys.isActive(keyId), rateLimit: 1 });
  });
  const make = async () => (await tokens.create(MAKER, { user: 'ada', expires_in: 60 }, 'ada')).token;

  it('keep nobody waiting: tokens are taken while the database does not answer', async () => {
    answer = () => new Promise(() => {});
    const { token: grant, ...identity } = await tokens.verify(await make());
    expect(grant).to.include({ user: 'ada', keyId: 'k1' });
    expect(identity).to.include({ owner: 'ada', role: 'reader', rateLimit: 7 });
    expect(identity.keyId).to.match(/^token:/);
    answer = async () => Promise.reject(new Error('away'));
    time = 2_000;
    await tokens.verify(await make());
    await eventually(() => expect(asked).to.have.length(2));
    await tokens.verify(await make());
    expect(inactive).to.deep.equal([]);
  });

  it('are asked about once in a time, however many tokens come', async () => {
    const token = await make();
    for (let n = 0; n < 20; n += 1) {
      await tokens.verify(token);
    }
    await eventually(() => expect(asked).to.deep.equal([['k1']]));
    time = 1_000;
    await tokens.verify(token);
    await eventually(() => expect(asked).to.have.length(2));
  });

  it('end their tokens when they are not valid, are told to be disabled, and no longer when they have changed', async () => {
    const token = await make();
    answer = async () => new Set();
    await tokens.verify(token);
    await eventually(() => expect(inactive).to.deep.equal(['k1']));
    expect(await refusalCode(() => tokens.verify(token))).to.equal('INACTIVE_API_KEY');
    answer = async () => new Set(['k1']);
    keys.forget('k1');
    await tokens.verify(token);
    keys.disable('k1');
    expect(await refusalCode(() => tokens.verify(token))).to.equal('INACTIVE_API_KEY');
  });
});

describe('a token', () => {
  const tokens = new Tokens({ secrets: ['s'.repeat(32)], isActive: () => true, rateLimit: 1 });

  it('is not made so long that it would not be taken', async () => {
    const rooms = (length: number): string[] =>
      Array.from({ length: 64 }, (_, index) => `user:${String(index).padEnd(length, 'x')}`);
    const { token } = await tokens.create(MAKER, { rooms: rooms(60), expires_in: 60 }, undefined);
    expect((await tokens.verify(token)).token?.rooms).to.have.property('size', 64);
    const create = () => tokens.create(MAKER, { rooms: rooms(128), expires_in: 60 }, undefined);
    expect(await refusalCode(create)).to.equal('INVALID_REQUEST');
  });
});
