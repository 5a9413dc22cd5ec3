import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { io } from 'socket.io-client';
import WebSocket from 'ws';
import { Account } from '../support/account.js';
import { eventually } from '../support/eventually.js';
import { Instance } from '../support/instance.js';
import { POSTGRES_PROGRAMS, sharedPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { PROXIES, type ReverseProxy } from '../support/proxy.js';
import { REDIS_PROGRAMS, type RedisServer, startRedis } from '../support/redis.js';
import { RestWrites, Scene } from '../support/scene.js';
import { Subscriber } from '../support/subscriber.js';
import { random, Writer, writeAll } from '../support/writers.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8');

describe('deploy', () => {
  it('Dockerfile copies what exists, and .dockerignore lets it through', () => {
    const copied = [...read('Dockerfile').matchAll(/^COPY (?!--from)(.+) \S+$/gm)].flatMap((match) =>
      match[1]!.split(' '),
    );
    expect(copied).to.include.members(['package-lock.json', 'src', 'cluster.ts']);
    const allowed = read('.dockerignore');
    for (const name of copied) {
      expect(existsSync(join(ROOT, name)), name).to.equal(true);
      expect(allowed).to.contain(`!${name}\n`);
    }
  });
});

for (const kind of PROXIES) {
  describeWith([kind.program], `${kind.program} in front of instances that fail`, () => {
    const servers: Server[] = [];
    /** Requests that reached an instance, as method and body. */
    let seen: string[] = [];
    /** What becomes of the next requests: their connection ends, or they are answered with a status. */
    let fates: Array<'cut' | number> = [];
    let proxy: ReverseProxy;

    before(async () => {
      for (let count = 0; count < 2; count += 1) {
        const server = createServer(async (request, response) => {
          const body = (await request.toArray()).join('');
          seen.push(`${request.method} ${request.url} ${body}`);
          const fate = fates.shift() ?? 200;
          if (fate === 'cut') {
            request.socket.destroy();
          } else {
            response.writeHead(fate).end();
          }
        });
        server.listen(0, '127.0.0.1');
        await once(server, 'listening');
        servers.push(server);
      }
    });

    after(() => {
      for (const server of servers) {
        server.closeAllConnections();
        server.close();
      }
    });

    beforeEach(async () => {
      seen = [];
      fates = [];
      // One that remembers no failures.
      proxy = await kind.start({ instances: servers.map((server) => (server.address() as AddressInfo).port) });
    });

    afterEach(() => proxy?.stop());

    const send = async (method: string): Promise<number> => {
      const body = method === 'GET' ? {} : { body: '{"fee":1}' };
      return (await fetch(`${proxy.url}/api/tasks/1/fee`, { method, ...body })).status;
    };

    for (const method of ['PUT', 'POST', 'DELETE']) {
      it(`never sends a ${method} twice`, async () => {
        fates = ['cut'];
        expect(await send(method)).to.equal(502);
        fates = [503];
        expect(await send(method)).to.equal(503);
        expect(await send(method)).to.equal(200);
        expect(seen).to.deep.equal(Array(3).fill(`${method} /api/tasks/1/fee {"fee":1}`));
      });
    }

    it('asks the other one when a GET was not answered', async () => {
      fates = ['cut', 200, 503, 200];
      expect([await send('GET'), await send('GET')]).to.deep.equal([200, 200]);
      expect(seen).to.have.length(4);
    });

    for (const [method, tries] of [
      ['GET', 2],
      ['POST', 1],
      ['PUT', 1],
    ] as const) {
      it(`leaves none out for what it answers to a ${method}: without Postgres it still takes connections`, async () => {
        fates = Array(10 * tries).fill(503);
        const answers: number[] = [];
        for (let count = 0; count < 11; count += 1) {
          answers.push(await send(method));
        }
        expect(answers).to.deep.equal([...Array(10).fill(503), 200]);
        expect(seen).to.have.length(10 * tries + 1);
      });
    }

    /** Ends the connections of an instance, and takes no new ones. */
    const leave = async (server: Server): Promise<number> => {
      const { port } = server.address() as AddressInfo;
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
      return port;
    };
    const comeBack = async (server: Server, port: number): Promise<void> => {
      server.listen(port, '127.0.0.1');
      await once(server, 'listening');
    };

    it('tells an EventSource to come back when both are away: after another status than 200 it never does', async () => {
      const ports = [await leave(servers[0]!), await leave(servers[1]!)];
      try {
        const plain = await fetch(`${proxy.url}/api/jobs/1/events`);
        expect(plain.status).to.be.within(502, 504);
        const stream = await fetch(`${proxy.url}/api/jobs/1/events`, { headers: { accept: 'text/event-stream' } });
        expect(stream.status).to.equal(200);
        expect(stream.headers.get('content-type')).to.match(/^text\/event-stream/);
        expect(await stream.text()).to.equal('retry: 2000\n\n');
        // A write that was not made must not seem to be.
        for (const method of ['POST', 'PUT', 'DELETE']) {
          const headers = { accept: 'application/json, text/event-stream' };
          const write = await fetch(`${proxy.url}/api/tasks/1/fee`, { method, headers });
          expect(write.status, method).to.be.within(502, 504);
        }
      } finally {
        await comeBack(servers[0]!, ports[0]!);
        await comeBack(servers[1]!, ports[1]!);
      }
      await eventually(async () => expect(await send('GET')).to.equal(200));
    });

    for (const index of [0, 1]) {
      it(`passes instance ${index + 1} over when it cannot be reached, writes too, and knows it at once when it is back`, async () => {
        const [server, other] = [servers[index]!, servers[1 - index]!];
        const port = await leave(server);
        try {
          if (!kind.passesWrites) {
            // Now it knows.
            expect(await send('GET')).to.equal(200);
            seen = [];
          }
          const methods = Array(5).fill(['PUT', 'POST', 'DELETE', 'GET']).flat() as string[];
          for (const method of methods) {
            expect(await send(method), method).to.equal(200);
          }
          expect(seen.map((text) => text.split(' ')[0])).to.deep.equal(methods);
        } finally {
          await comeBack(server, port);
        }
        const otherPort = await leave(other);
        try {
          expect(await send('GET')).to.equal(200);
          for (const method of ['POST', 'PUT', 'DELETE', 'PUT', 'POST', 'DELETE']) {
            if (kind.passesWrites) {
              expect(await send(method), method).to.equal(200);
            } else {
              await eventually(async () => expect(await send(method), method).to.equal(200));
            }
          }
        } finally {
          await comeBack(other, otherPort);
        }
      });
    }
  });

  describeWith([kind.program, ...POSTGRES_PROGRAMS, ...REDIS_PROGRAMS], `deploy behind ${kind.program}`, function () {
    this.timeout(120_000);
    let redis: RedisServer;
    let scene: Scene;
    let instances: Instance[];
    let proxy: ReverseProxy;
    let url: string;
    let env: Record<string, string>;
    const subscribers: Subscriber[] = [];

    before(async () => {
      redis = await startRedis();
      const databaseUrl = await (await sharedPostgres()).createDatabase();
      scene = await Scene.make(databaseUrl, { users: 2, jobsPerUser: 2 });
      env = {
        DATABASE_URL: databaseUrl,
        REDIS_URL: redis.url,
        TRUSTED_PROXIES: 'loopback',
        MAX_CONNECTIONS_PER_IP: '4',
      };
      instances = await Promise.all([Instance.start({ env }), Instance.start({ env })]);
      proxy = await kind.start({ instances: instances.map(({ port }) => port) });
      ({ url } = proxy);
      await eventually(async () => expect((await fetch(`${url}/api/ws/health`)).status).to.equal(200));
    });

    after(async () => {
      for (const subscriber of subscribers) {
        subscriber.close();
      }
      await proxy?.stop();
      await Promise.all((instances ?? []).map((instance) => instance.kill()));
      await scene?.close();
      await redis?.stop();
    });

    /** A plain WebSocket from one of this machine's addresses. @returns whether it may stay, and the socket */
    async function connectFrom(localAddress: string): Promise<{ refused: string | undefined; socket: WebSocket }> {
      const socket = new WebSocket(`${url.replace('http', 'ws')}/api/ws/tasks?api_key=${scene.keys.get('user_1')}`, {
        localAddress,
        // What a client claims about itself is not believed.
        headers: { 'x-forwarded-for': `10.0.0.${Math.floor(Math.random() * 250)}` },
      });
      const refused = await new Promise<string | undefined>((resolve) => {
        socket.on('message', (text) => {
          const { type, data } = JSON.parse(String(text)) as { type: string; data: { code?: string } };
          resolve(type === 'ERROR' ? data.code : undefined);
        });
        socket.once('open', () => socket.send('{"type":"PING"}'));
      });
      return { refused, socket };
    }

    it('polling, the upgrade and plain WebSockets pass, and REST', async () => {
      for (const transports of [['polling'], ['websocket'], ['polling', 'websocket']]) {
        const socket = io(`${url}/api/ws/tasks`, {
          auth: { api_key: scene.keys.get('user_1') },
          transports,
          forceNew: true,
        });
        const answer = await new Promise<Record<string, unknown>>((resolve, reject) => {
          socket.once('connect_error', reject);
          socket.once('connect', () => socket.emit('SUBSCRIBE', { room: 'user:user_1' }, resolve));
        });
        expect(answer).to.have.property('room', 'user:user_1');
        if (transports.length === 2) {
          await eventually(() => expect(socket.io.engine.transport.name).to.equal('websocket'));
        }
        socket.disconnect();
      }
      expect((await fetch(`${url}/api/jobs`, { method: 'POST' })).status).to.equal(401);
    });

    it('counts connections by the address of the client', async () => {
      const open = [];
      for (let count = 0; count < 4; count += 1) {
        open.push(await connectFrom('127.0.0.2'));
      }
      const fifth = await connectFrom('127.0.0.2');
      const elsewhere = await connectFrom('127.0.0.3');
      expect(open.map(({ refused }) => refused)).to.deep.equal(Array(4).fill(undefined));
      expect(fifth.refused).to.equal('RATE_LIMIT_EXCEEDED');
      expect(elsewhere.refused).to.equal(undefined);
      for (const { socket } of [...open, fifth, elsewhere]) {
        socket.terminate();
      }
    });

    it('brings clients of a killed instance to the other one, and nothing is lost', async function () {
      this.timeout(240_000);
      for (const wire of ['websocket', 'socket.io'] as const) {
        subscribers.push(new Subscriber(wire, url, scene.keys.get('user_2')!, ['user:user_2']));
      }
      const live = () =>
        eventually(() => expect(subscribers.every((one) => one.live)).to.equal(true), { timeoutMs: 60_000 });
      await live();
      const jobs = scene.jobs.filter(({ userId }) => userId === 'user_2');
      const writer = new Writer(new RestWrites(() => [url], scene.serviceKey), jobs, random(1));
      // For a moment the proxy may take both instances for away that a write was not sent to.
      const write = () => eventually(() => writeAll([writer], 20), { timeoutMs: 30_000 });
      await write();
      // All come from one address, so one of the instances has them, and then the other.
      for (const index of [0, 1]) {
        const { port } = instances[index]!;
        await instances[index]!.kill();
        await write();
        await live();
        instances[index] = await Instance.start({ env, port });
      }
      await write();
      const account = new Account(scene.db);
      for (const subscriber of subscribers) {
        await account.settle(subscriber);
        expect(subscriber.connections).to.be.greaterThan(1);
      }
    });

    it('keeps API keys out of its logs', async () => {
      await eventually(() =>
        expect(proxy.log())
          .to.match(/GET.*\/api\/ws\/tasks/)
          .and.not.contain('tw_'),
      );
    });
  });
}
