import { once } from 'node:events';
import { expect } from 'chai';
import { io, type Socket } from 'socket.io-client';
import { connectDatabase } from '../../src/database/connect-database.js';
import { newApiKey } from '../../src/protocol/api-key-form.js';
import { NAMESPACE } from '../../src/protocol/paths.js';
import { ApiKeyRepository } from '../../src/repository/api-key-repository.js';
import { eventually } from '../support/eventually.js';
import { clientFrame, HostileClient } from '../support/hostile-client.js';
import { PlainClient } from '../support/plain-client.js';
import { embeddedForTest, InProcessServer } from '../support/task-server.js';

const ENGINE = '/socket.io/?EIO=4&transport=websocket';

describe('the door', function () {
  this.timeout(60_000);
  let database: Awaited<ReturnType<typeof embeddedForTest>>;
  let key: string;
  let other: string;
  const servers: InProcessServer[] = [];
  const sockets: Array<{ disconnect(): unknown }> = [];
  const hostile: HostileClient[] = [];

  before(async () => {
    database = await embeddedForTest();
    const db = connectDatabase({ url: database.url, pool: 1 });
    const keys = new ApiKeyRepository(db);
    ({ key } = await keys.create({ owner: 'ada', rate_limit: 1_000_000 }));
    ({ key: other } = await keys.create({ owner: 'ada', rate_limit: 1_000_000 }));
    await db.destroy();
  });

  after(() => database?.stop());

  afterEach(async () => {
    for (const socket of sockets.splice(0)) {
      socket.disconnect();
    }
    for (const client of hostile.splice(0)) {
      client.end();
    }
    await Promise.all(servers.splice(0).map((server) => server.stop()));
  });

  async function serverWith(env: Record<string, string>): Promise<InProcessServer> {
    const server = new InProcessServer(database.url, env);
    servers.push(server);
    await server.start();
    return server;
  }

  const portOf = ({ url }: InProcessServer): number => Number(new URL(url).port);

  async function upgrade(server: InProcessServer, target: string): Promise<HostileClient> {
    const client = await HostileClient.upgrade(portOf(server), target);
    hostile.push(client);
    await eventually(() => expect(client.received).to.match(/^HTTP\/1\.1 \d/));
    return client;
  }

  const statusOf = ({ received }: HostileClient): number => Number(received.slice(9, 12));

  for (const [title, env] of [
    ['that comes too often', { MAX_CONNECTS_PER_MINUTE_PER_IP: '3' }],
    ['that tries too many keys', { MAX_FAILED_KEYS_PER_MINUTE_PER_IP: '3' }],
  ] as const) {
    it(`tells an address ${title} before the upgrade, and lets pass what it knows`, async () => {
      const server = await serverWith(env);
      const good = new PlainClient(`${server.url}${NAMESPACE}?api_key=${key}`);
      good.send = () => {};
      await eventually(() => expect(server.broker.places()).to.deep.equal([1]));
      for (let n = 0; n < 4; n += 1) {
        const client = await upgrade(server, `${NAMESPACE}?api_key=${newApiKey()}`);
        if (statusOf(client) === 101) {
          await eventually(() => expect(client.received).to.contain('INVALID_API_KEY'));
        }
      }
      const refused = await upgrade(server, `${NAMESPACE}?api_key=${newApiKey()}`);
      expect(statusOf(refused)).to.equal(429);
      expect(refused.received)
        .to.match(/\r\nRetry-After: \d+\r\n/)
        .and.contain('"RATE_LIMIT_EXCEEDED"');
      expect(statusOf(await upgrade(server, `${NAMESPACE}?api_key=${key}`))).to.equal(101);
      good.socket.terminate();
    });
  }

  it('tells it the same over Socket.IO, by poll and by WebSocket', async () => {
    const server = await serverWith({ MAX_CONNECTS_PER_MINUTE_PER_IP: '2' });
    const poll = `${server.url}/socket.io/?EIO=4&transport=polling`;
    expect((await fetch(poll)).status).to.equal(200);
    expect(statusOf(await upgrade(server, ENGINE))).to.equal(101);
    expect(statusOf(await upgrade(server, ENGINE))).to.equal(429);
    const response = await fetch(poll);
    expect(response.status).to.equal(429);
    expect(Number(response.headers.get('retry-after'))).to.be.within(1, 30);
  });

  it('has room for so many that do not say whose they are, and cuts the oldest off', async () => {
    const server = await serverWith({ MAX_CONNECTIONS_PER_IP: '2' });
    const clients: HostileClient[] = [];
    for (let n = 0; n < 3; n += 1) {
      clients.push(await upgrade(server, ENGINE));
    }
    await eventually(() => expect(clients.map(({ gone }) => gone)).to.deep.equal([true, false, false]));
    clients[2]!.write(clientFrame(`40${NAMESPACE},{"api_key":"${key}"}`));
    await eventually(() => expect(clients[2]!.received).to.contain(`40${NAMESPACE},{"sid"`));
  });

  for (const [wire, target] of [
    ['plain', (given: string) => `${NAMESPACE}?api_key=${given}`],
    ['Socket.IO', () => ENGINE],
  ] as const) {
    it(`gives a client that comes back the place of its silent predecessor, and nobody else's: ${wire}`, async () => {
      const server = await serverWith({ MAX_CONNECTIONS_PER_IP: '1' });
      const silent = await upgrade(server, target(key));
      if (wire === 'Socket.IO') {
        silent.write(clientFrame(`40${NAMESPACE},{"api_key":"${key}"}`));
      }
      await eventually(() => expect(server.broker.places()).to.deep.equal([1]));
      const connect = async (given: string): Promise<number | undefined> => {
        const client = new PlainClient(`${server.url}${NAMESPACE}?api_key=${given}`);
        client.socket.on('open', () => client.send({ type: 'PING' }));
        await eventually(() => expect(client.messages).to.not.have.length(0));
        if (client.messages[0].type === 'ERROR') {
          return (await client.ended()).code;
        }
        hold.push(client);
        return undefined;
      };
      const hold: PlainClient[] = [];
      expect(await connect(other)).to.equal(4029);
      expect(silent.gone).to.equal(false);
      await eventually(async () => expect(await connect(key)).to.equal(undefined), { timeoutMs: 20_000 });
      expect(silent.gone).to.equal(true);
      // The one that is there now answers, and stays.
      let pings = 0;
      hold[0]!.socket.on('ping', () => {
        pings += 1;
      });
      await eventually(
        async () => {
          expect(await connect(key)).to.equal(4029);
          expect(pings).to.be.above(1);
        },
        { timeoutMs: 20_000, intervalMs: 200 },
      );
      expect(hold[0]!.closed).to.equal(undefined);
      hold[0]!.socket.terminate();
    });
  }

  for (const transports of [['websocket'], ['polling'], ['polling', 'websocket']]) {
    it(`lets a client without any handler come back when there is room again: ${transports.join(', ')}`, async () => {
      const server = await serverWith({ MAX_CONNECTIONS_PER_IP: '1' });
      const first = new PlainClient(`${server.url}${NAMESPACE}?api_key=${key}`);
      await once(first.socket, 'open');
      await eventually(() => expect(server.broker.places()).to.deep.equal([1]));
      const stock: Socket = io(`${server.url}${NAMESPACE}`, { auth: { api_key: key }, transports, forceNew: true });
      sockets.push(stock);
      let attempts = 0;
      stock.io.on('reconnect_attempt', () => {
        attempts += 1;
      });
      await eventually(() => expect(attempts).to.be.above(0), { timeoutMs: 20_000 });
      expect(stock.connected).to.equal(false);
      first.socket.close();
      await eventually(() => expect(stock.connected).to.equal(true), { timeoutMs: 20_000 });
    });
  }
});
