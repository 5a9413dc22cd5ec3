import { expect } from 'chai';
import type { Refusal } from '../../src/door/refusal-log.js';
import { createRenew, type RenewalOptions } from '../../src/door/renewal.js';
import { TaskwireError } from '../../src/protocol/errors.js';
import type { Identity } from '../../src/protocol/tasks.js';
import { refusalCode } from '../support/refusal.js';

const BEFORE: Identity = { keyId: 'k1', owner: 'ada', role: 'user', rateLimit: 10 };
const AFTER: Identity = { keyId: 'k2', owner: 'bob', role: 'user', rateLimit: 10 };

describe('new credentials of a connection', () => {
  let revision: number;
  let groups: string[];
  let answer: () => Promise<Identity>;
  let counted: string[];
  let options: RenewalOptions;
  beforeEach(() => {
    revision = 0;
    groups = [];
    counted = [];
    answer = async () => AFTER;
    options = {
      keys: {
        get revision() {
          return revision;
        },
        authenticate: (_credentials, group) => {
          groups.push(group);
          return answer();
        },
      },
      rates: {
        check: async ({ keyId }) => {
          counted.push(keyId);
          return { allowed: true, limit: 10, remaining: 9, resetMs: 1 };
        },
      },
    };
  });
  const renew = () => createRenew(options)({ api_key: 'x' }, BEFORE);

  it('say who it is from now on, are a request of that key, and are tried in the name of the key before', async () => {
    expect((await renew()).identity).to.equal(AFTER);
    expect(counted).to.deep.equal(['k2']);
    expect(groups).to.deep.equal(['key k1']);
  });

  it('of a key that may not read are none', async () => {
    answer = async () => ({ ...AFTER, scopes: ['write'] });
    expect(await refusalCode(renew)).to.equal('ACCESS_DENIED');
    expect(counted).to.deep.equal([]);
  });

  it('that are refused are noted, with the key whose connection sent them', async () => {
    const noted: Refusal[] = [];
    options = { ...options, refusals: { note: (refusal) => noted.push(refusal) } };
    const reason = 'Invalid or expired API key';
    answer = () => Promise.reject(new TaskwireError('INVALID_API_KEY'));
    expect(await refusalCode(renew)).to.equal('INVALID_API_KEY');
    expect(noted).to.deep.equal([{ code: 'INVALID_API_KEY', reason, key: 'k1' }]);
    answer = async () => AFTER;
    const renewal = await renew();
    revision += 1;
    answer = () => Promise.reject(new TaskwireError('INVALID_API_KEY'));
    expect(await refusalCode(() => renewal.confirm())).to.equal('INVALID_API_KEY');
    answer = async () => AFTER;
    const { rates } = options;
    options = {
      ...options,
      rates: {
        check: (identity) => rates.check(identity).then(() => Promise.reject(new TaskwireError('RATE_LIMIT_EXCEEDED'))),
      },
    };
    expect(await refusalCode(renew)).to.equal('RATE_LIMIT_EXCEEDED');
    expect(noted.map(({ code, key }) => [code, key])).to.deep.equal([
      ['INVALID_API_KEY', 'k1'],
      ['INVALID_API_KEY', 'k1'],
      ['RATE_LIMIT_EXCEEDED', 'k2'],
    ]);
  });

  it('are looked at again when keys have changed meanwhile, and only then', async () => {
    const renewal = await renew();
    answer = () => Promise.reject(new TaskwireError('INACTIVE_API_KEY'));
    await renewal.confirm();
    revision += 1;
    expect(await refusalCode(() => renewal.confirm())).to.equal('INACTIVE_API_KEY');
  });
});
