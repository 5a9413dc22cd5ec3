import type { IncomingMessage } from 'node:http';
import { expect } from 'chai';
import fc from 'fast-check';
import { parseBody } from '../../src/http/body-text.js';
import { isLocalCaller } from '../../src/http/local-caller.js';
import { Health, type HealthOptions } from '../../src/stats/health.js';

describe('local caller', () => {
  const is = (
    remoteAddress: string,
    headers: Record<string, string> = { host: 'localhost:9002' },
    httpVersion = '1.1',
  ): boolean => isLocalCaller({ socket: { remoteAddress }, headers, httpVersion } as unknown as IncomingMessage);

  it('is who talks to this machine from itself', () => {
    expect(is('127.0.0.1')).to.equal(true);
    expect(is('::1', { host: '[::1]:9002' })).to.equal(true);
    expect(is('::ffff:127.0.0.1', { host: '127.0.0.1:9002', 'user-agent': 'curl' })).to.equal(true);
    expect(is('10.0.0.1')).to.equal(false);
    expect(is('')).to.equal(false);
  });

  it('is nobody who came through a proxy', () => {
    for (const name of ['x-forwarded-for', 'x-forwarded-proto', 'forwarded', 'via', 'x-real-ip', 'cf-connecting-ip']) {
      expect(is('127.0.0.1', { host: 'localhost', [name]: '1' }), name).to.equal(false);
    }
    expect(is('127.0.0.1', { host: '127.0.0.1:9002' }, '1.0'), 'nginx as it is by default').to.equal(false);
  });

  it("is no other site's page in a browser of this machine", () => {
    expect(is('127.0.0.1', { host: 'localhost', 'sec-fetch-site': 'none' }), 'typed by a person').to.equal(true);
    expect(is('127.0.0.1', { host: 'localhost', origin: 'https://evil.example' })).to.equal(false);
    expect(is('127.0.0.1', { host: 'localhost', 'sec-fetch-site': 'cross-site' })).to.equal(false);
    expect(is('127.0.0.1', { host: 'rebound.evil.example:9002' }), 'a name made to point here').to.equal(false);
    expect(is('127.0.0.1', {})).to.equal(false);
  });
});

describe('the text of a body', () => {
  const idOf = (number: string): unknown => (parseBody(`{"job_id":${number}}`) as { job_id: unknown }).job_id;

  it('keeps the value of a job id that is a number', () => {
    for (const [number, text] of [
      ['0', '0'],
      ['120', '120'],
      ['9007199254740993', '9007199254740993'],
      ['9'.repeat(78), '9'.repeat(78)],
      ['1.0', '1'],
      ['0.5e1', '5'],
      ['12.50E+1', '125'],
      ['1e21', `1${'0'.repeat(21)}`],
      ['0e99', '0'],
      ['100e-2', '1'],
    ]) {
      expect(idOf(number!), number).to.equal(text);
    }
    for (const number of ['-1', '-0', '1.5', '15e-1', '0.1', '1e200', '1e99999999999', '7'.repeat(500)]) {
      expect(idOf(number), number).to.equal(number);
    }
  });

  it('says that what is not JSON is not', () => {
    for (const text of ['', '{"job_id":01}', '{"job_id":1', '{"job_id":1.}', '"\\"'.repeat(1_000), '[1,]']) {
      expect(() => parseBody(text), text)
        .to.throw()
        .with.property('code', 'INVALID_REQUEST');
    }
  });

  it('is otherwise what JSON says', () => {
    const json = fc.letrec((tie) => ({
      value: fc.oneof({ maxDepth: 4 }, tie('leaf'), fc.array(tie('value'), { maxLength: 4 }), tie('object')),
      leaf: fc.oneof(
        fc.integer(),
        fc.double({ noNaN: true, noDefaultInfinity: true }),
        fc.string(),
        fc.constantFrom('"job_id":1', '\\', 'job_id', '{', '"', null, true),
      ),
      object: fc.dictionary(fc.oneof(fc.constantFrom('job_id', '"job_id":', 'a'), fc.string()), tie('value'), {
        maxKeys: 4,
      }),
    })).value;
    const withText = (item: unknown): unknown =>
      typeof item === 'object' && item !== null && Object.hasOwn(item, 'job_id') && 'job_id' in item
        ? { ...item, job_id: typeof item.job_id === 'number' ? idOf(JSON.stringify(item.job_id)) : item.job_id }
        : item;
    fc.assert(
      fc.property(json, fc.constantFrom(undefined, 1), (value, space) => {
        const text = JSON.stringify(value, null, space);
        const plain = JSON.parse(text) as unknown;
        const expected = Array.isArray(plain) ? plain.map(withText) : withText(plain);
        expect(parseBody(text)).to.deep.equal(expected);
      }),
      { numRuns: 2_000 },
    );
  });

  it('takes time in proportion to its length', () => {
    const quotes = '\\"'.repeat(200_000);
    const body = parseBody(`{"text":"${quotes}","deep":${'['.repeat(1_000)}${']'.repeat(1_000)},"job_id":1}`);
    expect(body).to.include({ job_id: '1' });
    expect(idOf(`0.${'0'.repeat(400_000)}1`)).to.have.length(400_003);
  });
});

describe('health', () => {
  const report = { clients: 1, totalRooms: 2, rooms: new Map(), roomsTruncated: false, nodes: 1, partial: false };
  let time: number;
  let probes: number;

  const healthOf = (options: Partial<HealthOptions>): Health => {
    time = 0;
    probes = 0;
    return new Health({
      probeDatabase: async () => {
        probes += 1;
      },
      brokerState: () => ({ status: 'up', lost: [] }),
      readiness: () => 'ready',
      collect: async () => report,
      now: () => time,
      ...options,
    });
  };

  it('examines once for many who ask, and again after a second', async () => {
    const health = healthOf({});
    await Promise.all(Array.from({ length: 50 }, () => health.report()));
    await health.report();
    expect(probes).to.equal(1);
    time += 1_000;
    await health.report();
    expect(probes).to.equal(2);
  });

  it('does not wait for a database that hangs, nor asks it more than once', async () => {
    let free!: () => void;
    const health = healthOf({
      probeMs: 20,
      probeDatabase: () => {
        probes += 1;
        return new Promise<void>((resolve) => {
          free = resolve;
        });
      },
    });
    for (let round = 0; round < 2; round += 1) {
      const { status, components } = await health.report();
      expect(status).to.equal('degraded');
      expect(components.database).to.equal('down');
      time += 1_000;
    }
    expect(probes).to.equal(1);
    const recovered = health.report();
    free();
    expect((await recovered).components.database).to.equal('up');
  });

  it('tells of draining at once', async () => {
    let readiness: 'ready' | 'draining' = 'ready';
    const health = healthOf({ readiness: () => readiness });
    expect((await health.report()).status).to.equal('healthy');
    readiness = 'draining';
    expect((await health.report()).status).to.equal('draining');
  });
});
