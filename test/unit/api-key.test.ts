import { expect } from 'chai';
import { silentLogger } from '../../src/base/logger.js';
import { ApiKeyAuth } from '../../src/door/api-key.js';
import { KeyUsage } from '../../src/door/key-usage.js';
import { TaskwireError } from '../../src/protocol/errors.js';
import { type ApiKeyRecord, hashApiKey } from '../../src/repository/api-key-repository.js';
import { refusalCode } from '../support/refusal.js';

const keyOf = (letter: string): string => `tw_${letter.repeat(43)}`;
const KEY = keyOf('a');
const CACHE_MS = 1_000;
const GRACE_MS = 60_000;

function recordOf(keyId: string, fields: Partial<ApiKeyRecord> = {}): ApiKeyRecord {
  const common = { prefix: 'tw_aaaa', name: null, created_at: '', last_used_at: null, scopes: null, expires_at: null };
  return { key_id: keyId, owner: 'ada', role: 'user', rate_limit: 600, active: true, ...common, ...fields };
}

/** A table of keys that counts how often it is asked and can be switched off. */
class KeyTable {
  readonly records = new Map([[hashApiKey(KEY), recordOf('k1')]]);
  readonly uses: string[] = [];
  asked = 0;
  down = false;
  time = 0;
  /** Delays answers until it is resolved; what is answered was read before. */
  gate: Promise<void> = Promise.resolve();

  readonly auth = new ApiKeyAuth({
    find: async (hash) => {
      this.asked += 1;
      const record = this.records.get(hash);
      await this.gate;
      if (this.down) {
        throw new TaskwireError('DATABASE_UNAVAILABLE');
      }
      return record;
    },
    cacheMs: CACHE_MS,
    graceMs: GRACE_MS,
    onUse: (keyId) => this.uses.push(keyId),
    now: () => this.time,
  });

  disable(key: string): void {
    const record = this.records.get(hashApiKey(key))!;
    this.records.set(hashApiKey(key), { ...record, active: false });
  }
}

describe('API keys', () => {
  let table: KeyTable;
  beforeEach(() => {
    table = new KeyTable();
  });

  it('says whose a key is, wherever it stands', async () => {
    const identity = { keyId: 'k1', owner: 'ada', role: 'user', rateLimit: 600 };
    for (const credentials of [
      { query: [KEY] },
      { header: KEY },
      { auth: [KEY] },
      { query: [KEY], header: KEY, auth: [KEY] },
    ]) {
      expect(await table.auth.authenticate(credentials)).to.deep.equal(identity);
    }
    expect(table.uses).to.deep.equal(['k1', 'k1', 'k1', 'k1']);
  });

  it('names what is wrong', async () => {
    table.records.set(hashApiKey(keyOf('b')), recordOf('k2', { active: false }));
    const code = (credentials: Parameters<ApiKeyAuth['authenticate']>[0]) =>
      refusalCode(() => table.auth.authenticate(credentials));
    expect(await code({})).to.equal('MISSING_API_KEY');
    expect(await code({ query: [''], header: '', auth: [null] })).to.equal('MISSING_API_KEY');
    expect(await code({ query: [KEY], header: keyOf('b') })).to.equal('AUTHENTICATION_FAILED');
    expect(await code({ query: [KEY, keyOf('b')] })).to.equal('AUTHENTICATION_FAILED');
    expect(await code({ query: [keyOf('b')] })).to.equal('INACTIVE_API_KEY');
    expect(await code({ query: [keyOf('c')] })).to.equal('INVALID_API_KEY');
  });

  it('does not look up what cannot be a key', async () => {
    for (const auth of ['tw_short', `${KEY}x`, 17, { $ne: '' }, [KEY], true, `${KEY}\n`]) {
      expect(await refusalCode(() => table.auth.authenticate({ auth: [auth] }))).to.equal('INVALID_API_KEY');
    }
    expect(table.asked).to.equal(0);
  });

  it('looks a key up once, also when many ask at a time, and again when its time is over', async () => {
    await Promise.all(Array.from({ length: 100 }, () => table.auth.authenticate({ header: KEY })));
    await table.auth.authenticate({ header: KEY });
    expect(table.asked).to.equal(1);
    table.time += CACHE_MS;
    await table.auth.authenticate({ header: KEY });
    expect(table.asked).to.equal(2);
  });

  it('remembers that a key is unknown', async () => {
    for (let attempt = 0; attempt < 3; attempt += 1) {
      expect(await refusalCode(() => table.auth.authenticate({ header: keyOf('x') }))).to.equal('INVALID_API_KEY');
    }
    expect(table.asked).to.equal(1);
  });

  it('believes known keys for a while when the database is away, and no others', async () => {
    await table.auth.authenticate({ header: KEY });
    table.down = true;
    table.time += CACHE_MS;
    await table.auth.authenticate({ header: KEY });
    await table.auth.authenticate({ header: KEY });
    expect(table.asked, 'one attempt, not one per request').to.equal(2);
    expect(await refusalCode(() => table.auth.authenticate({ header: keyOf('n') }))).to.equal('DATABASE_UNAVAILABLE');
    table.time += GRACE_MS;
    expect(await refusalCode(() => table.auth.authenticate({ header: KEY }))).to.equal('DATABASE_UNAVAILABLE');
    table.down = false;
    await table.auth.authenticate({ header: KEY });
  });

  it('forgets a revoked key at once, and does not believe it when the database is away', async () => {
    await table.auth.authenticate({ header: KEY });
    table.disable(KEY);
    await table.auth.authenticate({ header: KEY });
    table.auth.forget('k1');
    expect(await refusalCode(() => table.auth.authenticate({ header: KEY }))).to.equal('INACTIVE_API_KEY');
    table.auth.forget('k1');
    table.down = true;
    expect(await refusalCode(() => table.auth.authenticate({ header: KEY }))).to.equal('DATABASE_UNAVAILABLE');
  });

  it('does not believe a look-up that a revocation has overtaken', async () => {
    let open!: () => void;
    table.gate = new Promise((resolve) => {
      open = resolve;
    });
    const early = refusalCode(() => table.auth.authenticate({ header: KEY }));
    await Promise.resolve();
    table.disable(KEY);
    table.auth.forget('k1');
    open();
    expect(await early).to.equal('INACTIVE_API_KEY');
  });

  it('has every key looked up again on demand', async () => {
    await table.auth.authenticate({ header: KEY });
    table.disable(KEY);
    table.auth.expireAll();
    expect(await refusalCode(() => table.auth.authenticate({ header: KEY }))).to.equal('INACTIVE_API_KEY');
  });
});

describe('last use of API keys', () => {
  it('is written in batches, and a failed batch with the next one', async () => {
    const batches: Array<Map<string, Date>> = [];
    let broken = true;
    const usage = new KeyUsage({
      write: async (uses) => {
        if (broken) {
          throw new TaskwireError('DATABASE_UNAVAILABLE');
        }
        batches.push(new Map(uses));
      },
      logger: silentLogger,
    });
    usage.start();
    usage.note('k1');
    usage.note('k2');
    usage.note('k1');
    await usage.flush();
    broken = false;
    usage.note('k3');
    await usage.stop();
    expect(batches.map((uses) => [...uses.keys()].sort())).to.deep.equal([['k1', 'k2', 'k3']]);
    await usage.stop();
    expect(batches, 'nothing to write').to.have.length(1);
  });

  it('keeps the later of two uses when a batch failed', async () => {
    let release!: () => void;
    const written: Array<ReadonlyMap<string, Date>> = [];
    let first: ReadonlyMap<string, Date> | undefined;
    const usage = new KeyUsage({
      write: async (uses) => {
        if (first === undefined) {
          first = uses;
          await new Promise<void>((resolve) => {
            release = resolve;
          });
          throw new Error('lost');
        }
        written.push(uses);
      },
      logger: silentLogger,
    });
    usage.note('k1');
    const failing = usage.flush();
    await Promise.resolve();
    const firstUse = first!.get('k1');
    usage.note('k1');
    release();
    await failing;
    await usage.flush();
    expect(written[0]!.size).to.equal(1);
    expect(written[0]!.get('k1')).to.not.equal(firstUse);
  });
});
