import type { IncomingMessage } from 'node:http';
import { expect } from 'chai';
import { Health, type HealthOptions } from '../../src/http/health.js';
import { isLocalCaller } from '../../src/http/local-caller.js';

describe('local caller', () => {
  const is = (remoteAddress: string, headers: Record<string, string> = { host: 'localhost:9002' }): boolean =>
    isLocalCaller({ socket: { remoteAddress }, headers } as unknown as IncomingMessage);

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
  });

  it("is no other site's page in a browser of this machine", () => {
    expect(is('127.0.0.1', { host: 'localhost', 'sec-fetch-site': 'none' }), 'typed by a person').to.equal(true);
    expect(is('127.0.0.1', { host: 'localhost', origin: 'https://evil.example' })).to.equal(false);
    expect(is('127.0.0.1', { host: 'localhost', 'sec-fetch-site': 'cross-site' })).to.equal(false);
    expect(is('127.0.0.1', { host: 'rebound.evil.example:9002' }), 'a name made to point here').to.equal(false);
    expect(is('127.0.0.1', {})).to.equal(false);
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
      brokerUp: () => true,
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
