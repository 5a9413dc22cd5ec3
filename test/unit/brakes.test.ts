import { expect } from 'chai';
import { AddressBrake } from '../../src/door/address-brake.js';
import { ApiKeyAuth } from '../../src/door/api-key.js';
import { Authenticator } from '../../src/door/authenticator.js';
import { KeyGuard } from '../../src/door/key-guard.js';
import { RefusalLog } from '../../src/door/refusal-log.js';
import { WaitingRoom } from '../../src/door/waiting-room.js';
import { canBeApiKey, newApiKey } from '../../src/protocol/api-key-form.js';
import { TaskwireError } from '../../src/protocol/errors.js';
import { type ApiKeyRecord, hashApiKey } from '../../src/repository/api-key-repository.js';
import { eventually } from '../support/eventually.js';
import { refusal, refusalCode } from '../support/refusal.js';

const MINUTE = 60_000;

describe('API keys', () => {
  it('end in characters that follow from the others', () => {
    for (let n = 0; n < 50; n += 1) {
      const key = newApiKey();
      expect(canBeApiKey(key)).to.equal(true);
      const at = 3 + (n % 49);
      const wrong = key[at] === 'x' ? 'y' : 'x';
      expect(canBeApiKey(`${key.slice(0, at)}${wrong}${key.slice(at + 1)}`)).to.equal(false);
    }
  });

  it('of before, which have none, are keys still', () => {
    expect(canBeApiKey(`tw_${'a'.repeat(43)}`)).to.equal(true);
    for (const length of [0, 42, 44, 48, 50]) {
      expect(canBeApiKey(`tw_${'a'.repeat(length)}`)).to.equal(false);
    }
  });
});

describe('address brake', () => {
  it('lets so many pass in a minute, and says when the next one may come', async () => {
    let now = 0;
    const brake = new AddressBrake(6, 'too often', () => now);
    for (let n = 0; n < 6; n += 1) {
      brake.count('a');
    }
    const error = await refusal(() => brake.count('a'));
    expect(error.code).to.equal('RATE_LIMIT_EXCEEDED');
    expect(error.options.retryAfterMs).to.equal(MINUTE / 6);
    brake.count('b');
    now += MINUTE / 6;
    brake.count('a');
    expect(await refusalCode(() => brake.count('a'))).to.equal('RATE_LIMIT_EXCEEDED');
  });

  it('forgets addresses rather than growing', () => {
    const brake = new AddressBrake(1, 'too often');
    brake.count('first');
    for (let n = 0; n < 10_000; n += 1) {
      brake.count(`${n}`);
    }
    brake.count('first');
  });
});

describe('key guard', () => {
  const GOOD = newApiKey();
  const OTHER = newApiKey();
  const RECORD = {
    key_id: 'good',
    owner: 'ada',
    role: 'user',
    rate_limit: 600,
    scopes: null,
    active: true,
    expires_at: null,
  } as ApiKeyRecord;
  let lookups: string[];
  let now: number;
  let answer: (hash: string) => Promise<ApiKeyRecord | undefined>;
  let guard: KeyGuard;

  const of = (header: string) => ({ header });

  beforeEach(() => {
    lookups = [];
    now = 0;
    answer = async (hash) => ([GOOD, OTHER].map(hashApiKey).includes(hash) ? RECORD : undefined);
    const keys = new ApiKeyAuth({
      find: (hash) => {
        lookups.push(hash);
        return answer(hash);
      },
      cacheMs: 1_000,
      now: () => now,
    });
    const tokens = {
      verify: async (): Promise<never> => {
        throw new TaskwireError('INVALID_TOKEN');
      },
    };
    guard = new KeyGuard(new Authenticator(keys, tokens), new AddressBrake(3, 'too many keys', () => now));
  });

  it('looks no key up that was never issued', async () => {
    const invented = `${GOOD.slice(0, -1)}${GOOD.endsWith('x') ? 'y' : 'x'}`;
    expect(await refusalCode(() => guard.authenticate(of(invented), 'a'))).to.equal('INVALID_API_KEY');
    expect(lookups).to.deep.equal([]);
  });

  it('stops looking keys up for an address that tries too many, and for no other', async () => {
    for (let n = 0; n < 3; n += 1) {
      expect(await refusalCode(() => guard.authenticate(of(newApiKey()), 'a'))).to.equal('INVALID_API_KEY');
    }
    const error = await refusal(() => guard.authenticate(of(newApiKey()), 'a'));
    expect(error.code).to.equal('RATE_LIMIT_EXCEEDED');
    expect(error.options.retryAfterMs).to.equal(20_000);
    expect(await refusalCode(() => guard.check(of(newApiKey()), 'a'))).to.equal('RATE_LIMIT_EXCEEDED');
    expect(lookups).to.have.length(3);
    expect(await guard.authenticate(of(GOOD), 'b')).to.have.property('keyId', 'good');
  });

  it('lets keys pass from there that were good a short while ago', async () => {
    await guard.authenticate(of(GOOD), 'a');
    for (let n = 0; n < 3; n += 1) {
      await refusalCode(() => guard.authenticate(of(newApiKey()), 'a'));
    }
    now += 2_000;
    expect(await guard.authenticate(of(GOOD), 'a')).to.have.property('keyId', 'good');
    expect(await refusalCode(() => guard.authenticate(of(OTHER), 'a'))).to.equal('RATE_LIMIT_EXCEEDED');
  });

  it('counts one key once, however many requests bring it, and a good one not at all', async () => {
    const many = await Promise.all(Array.from({ length: 100 }, () => guard.authenticate(of(GOOD), 'a')));
    expect(many).to.have.length(100);
    for (let n = 0; n < 3; n += 1) {
      expect(await refusalCode(() => guard.authenticate(of(newApiKey()), 'a'))).to.equal('INVALID_API_KEY');
    }
  });

  it('holds nothing against an address while keys cannot be looked up', async () => {
    answer = async () => {
      throw new TaskwireError('DATABASE_UNAVAILABLE');
    };
    for (let n = 0; n < 10; n += 1) {
      expect(await refusalCode(() => guard.authenticate(of(newApiKey()), 'a'))).to.equal('DATABASE_UNAVAILABLE');
    }
  });

  it('has nothing to say of a request without a key', async () => {
    for (let n = 0; n < 10; n += 1) {
      expect(await refusalCode(() => guard.authenticate({}, 'a'))).to.equal('MISSING_API_KEY');
      guard.check({}, 'a');
    }
  });
});

describe('waiting room', () => {
  let now: number;
  let ended: string[];
  let room: WaitingRoom;

  beforeEach(() => {
    now = 0;
    ended = [];
    room = new WaitingRoom({ perAddress: 2, inAll: 4, patienceMs: 5_000, now: () => now });
  });

  afterEach(() => room.stop());

  const enter = (group: string, name: string): (() => void) => room.enter(group, () => ended.push(name));

  it('ends the oldest of an address, and of all, when there are too many', () => {
    for (const [group, name] of ['a1', 'a2', 'a3', 'b1', 'c1', 'd1'].map((name) => [name[0]!, name] as const)) {
      enter(group, name);
    }
    expect(ended).to.deep.equal(['a1', 'a2']);
    expect(room.size).to.equal(4);
  });

  it('ends nobody who has just come', () => {
    room.stop();
    room = new WaitingRoom({ perAddress: 2, inAll: 4, patienceMs: 5_000, graceMs: 1_000, now: () => now });
    for (const name of ['a1', 'a2', 'a3']) {
      enter('a', name);
    }
    expect(ended).to.deep.equal([]);
    now += 1_000;
    enter('a', 'a4');
    expect(ended).to.deep.equal(['a1']);
  });

  it('forgets who was let in', () => {
    for (let n = 0; n < 10; n += 1) {
      const leave = enter('a', String(n));
      leave();
      leave();
    }
    expect(room.size).to.equal(0);
    expect(ended).to.deep.equal([]);
  });

  it('ends who waits for too long', async () => {
    enter('a', 'early');
    now += 4_000;
    enter('b', 'late');
    now += 1_000;
    await eventually(() => expect(ended).to.deep.equal(['early']));
    expect(room.size).to.equal(1);
  });
});

describe('refusal log', () => {
  it('shows some of very many', () => {
    const lines: unknown[] = [];
    const log = new RefusalLog({ info: (message, fields) => lines.push([message, fields]) });
    for (let n = 0; n < 1_000; n += 1) {
      log.note({ code: 'INVALID_API_KEY', address: '192.0.2.7' });
    }
    expect(lines).to.have.length(20);
    expect(lines[0]).to.deep.equal(['refused', { code: 'INVALID_API_KEY', address: '192.0.2.7' }]);
  });
});
