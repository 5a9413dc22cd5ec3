import { once } from 'node:events';
import { type IncomingMessage, request } from 'node:http';
import { expect } from 'chai';
import { Instance, type InstanceOptions } from '../support/instance.js';
import { POSTGRES_PROGRAMS, sharedPostgres } from '../support/postgres.js';
import { describeWith, freePort } from '../support/programs.js';
import { startBareNginx } from '../support/proxy.js';
import { Scene } from '../support/scene.js';
import { startTcpProxy } from '../support/tcp-proxy.js';

const GUARDED = ['/api/ws/stats', '/api/ws/stats?room=job:1', '/metrics'];
const NAME = 'tasks.example.org';

/** A way to an instance, and by which name somebody asks on it. */
interface Way {
  readonly url: string;
  readonly host?: string;
}

/** What proxies do that say nothing of themselves. */
type WayName =
  | 'directly'
  | 'directly by a name'
  | 'through a forwarder of bytes'
  | 'through a forwarder of bytes by a name'
  | 'through nginx'
  | 'through nginx by HTTP/1.1'
  | 'through nginx that keeps the name';

async function ask({ url, host }: Way, path: string, headers: Record<string, string> = {}): Promise<number> {
  const asking = request(`${url}${path}`, { headers: { ...headers, ...(host === undefined ? {} : { host }) } });
  asking.end();
  const [answer] = (await once(asking, 'response')) as [IncomingMessage];
  answer.resume();
  await once(answer, 'end');
  return answer.statusCode!;
}

describeWith([...POSTGRES_PROGRAMS, 'nginx'], 'statistics behind a proxy that adds no header', function () {
  this.timeout(120_000);
  let scene: Scene;
  let databaseUrl: string;
  const endings: Array<() => Promise<unknown>> = [];

  before(async () => {
    databaseUrl = await (await sharedPostgres()).createDatabase();
    scene = await Scene.make(databaseUrl, { users: 1, jobsPerUser: 1 });
  });
  after(() => scene?.close());
  afterEach(async () => {
    for (const end of endings.splice(0).reverse()) {
      await end();
    }
  });

  async function start(options: InstanceOptions): Promise<Instance> {
    const instance = await Instance.start(options);
    endings.push(() => instance.kill());
    return instance;
  }

  /** All ways to a port of this machine. */
  async function waysTo(port: number): Promise<Record<WayName, Way>> {
    const forwarder = await startTcpProxy({ port });
    const [plain, modern, named] = await Promise.all([
      startBareNginx(port),
      startBareNginx(port, ['proxy_http_version 1.1;', 'proxy_set_header Connection "";']),
      startBareNginx(port, ['proxy_http_version 1.1;', 'proxy_set_header Host $host;']),
    ]);
    endings.push(() => forwarder.stop(), plain.stop, modern.stop, named.stop);
    const direct = { url: `http://127.0.0.1:${port}` };
    const forwarded = { url: `http://127.0.0.1:${forwarder.port}` };
    return {
      directly: direct,
      'directly by a name': { ...direct, host: NAME },
      'through a forwarder of bytes': forwarded,
      'through a forwarder of bytes by a name': { ...forwarded, host: NAME },
      'through nginx': { url: plain.url, host: NAME },
      'through nginx by HTTP/1.1': { url: modern.url, host: NAME },
      'through nginx that keeps the name': { url: named.url, host: NAME },
    };
  }

  /** @param open the ways on which everybody sees the statistics */
  async function expectOpen(ways: Record<WayName, Way>, open: readonly WayName[], serviceKey: string): Promise<void> {
    const found: string[] = [];
    for (const [name, way] of Object.entries(ways)) {
      const statuses = await Promise.all(GUARDED.map((path) => ask(way, path)));
      expect(new Set(statuses).size, `${name}: ${statuses}`).to.equal(1);
      expect(statuses[0]).to.be.oneOf([200, 401]);
      if (statuses[0] === 200) {
        found.push(name);
      }
      // Whatever is guarded, whoever has a key sees it, and balancers see the health.
      expect(await ask(way, '/api/ws/health'), name).to.equal(200);
      for (const path of GUARDED) {
        expect(await ask(way, path, { 'x-api-key': serviceKey }), name).to.equal(200);
      }
    }
    expect(found).to.deep.equal(open);
  }

  const everyWay = (ways: Record<WayName, Way>): WayName[] => Object.keys(ways) as WayName[];

  for (const [title, options] of [
    ['by default', {}],
    ['with STATS_ACCESS=key', { STATS_ACCESS: 'key' }],
    ['with STATS_ACCESS= and nothing behind it', { STATS_ACCESS: '' }],
    ['with HOST=127.0.0.1', { HOST: '127.0.0.1' }],
  ] as const) {
    it(`of a service with DATABASE_URL want a key ${title}, on each way`, async () => {
      const restPort = await freePort();
      const env = { STATS_ACCESS: undefined, ...options, DATABASE_URL: databaseUrl, REST_PORT: String(restPort) };
      const instance = await start({ env, workers: 2 });
      await expectOpen(await waysTo(instance.port), [], scene.serviceKey);
      await expectOpen(await waysTo(restPort), [], scene.serviceKey);
      // A user is no operator.
      const key = scene.keys.get('user_1')!;
      expect(await ask({ url: instance.url }, '/metrics', { 'x-api-key': key })).to.equal(403);
      expect(await ask({ url: instance.url }, '/metrics', { 'x-api-key': `${key}x` })).to.equal(401);
    });
  }

  it('of workers with ports of their own, and of one process, want a key as well', async () => {
    for (const [workers, LISTEN] of [
      [1, 'primary'],
      [1, 'workers'],
    ] as const) {
      const env = { STATS_ACCESS: undefined, DATABASE_URL: databaseUrl, LISTEN };
      const instance = await start({ env, workers });
      await expectOpen(await waysTo(instance.port), [], scene.serviceKey);
    }
  });

  it('are for everybody with STATS_ACCESS=public', async () => {
    const instance = await start({ env: { STATS_ACCESS: 'public', DATABASE_URL: databaseUrl }, workers: 2 });
    const ways = await waysTo(instance.port);
    await expectOpen(ways, everyWay(ways), scene.serviceKey);
  });

  it('are with STATS_ACCESS=local for whom nothing tells from a direct caller', async () => {
    const instance = await start({ env: { STATS_ACCESS: 'local', DATABASE_URL: databaseUrl }, workers: 2 });
    // docs/rest.md warns of proxies of this kind; nginx is one only when it is told to speak HTTP/1.1 and no header.
    const open = ['directly', 'through a forwarder of bytes', 'through nginx by HTTP/1.1'] as const;
    await expectOpen(await waysTo(instance.port), open, scene.serviceKey);
  });

  it('are on the embedded database not for who comes through nginx as it is by default', async () => {
    const instance = await start({ env: { STATS_ACCESS: undefined }, workers: 2 });
    const { directly, ...ways } = await waysTo(instance.port);
    expect(await ask(directly, '/metrics')).to.equal(200);
    expect(await ask(ways['through nginx'], '/metrics')).to.equal(401);
    expect(await ask(ways['through nginx that keeps the name'], '/metrics')).to.equal(401);
    expect(await ask(ways['through nginx'], '/api/ws/health')).to.equal(200);
  });
});
