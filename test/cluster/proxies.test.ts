import { once } from 'node:events';
import { createServer, type RequestListener, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, connect } from 'node:net';
import { expect } from 'chai';
import { Account } from '../support/account.js';
import { EventStream } from '../support/event-stream.js';
import { eventually } from '../support/eventually.js';
import { Instance } from '../support/instance.js';
import { startNameServer } from '../support/name-server.js';
import { POSTGRES_PROGRAMS, sharedPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { PROXIES, type ProxyKind, type ReverseProxy } from '../support/proxy.js';
import { REDIS_PROGRAMS, type RedisServer, startRedis } from '../support/redis.js';
import { Scene } from '../support/scene.js';
import { Subscriber } from '../support/subscriber.js';

const WRITERS = 4;

/** Sends bytes to a proxy. @returns what it answers, until it is whole or the connection is closed */
async function raw(url: string, request: string): Promise<string> {
  const { port, hostname } = new URL(url);
  const socket = connect(Number(port), hostname);
  socket.write(request);
  let answer = '';
  for await (const text of socket.setEncoding('latin1')) {
    answer += text;
    const length = /^content-length: (\d+)\r$/im.exec(answer)?.[1];
    if (length !== undefined && answer.length >= answer.indexOf('\r\n\r\n') + 4 + Number(length)) {
      break;
    }
  }
  return answer;
}

/**
 * Makes tasks by POST for as long as it runs, as a client does that obeys the answers: one that was turned away (503 with
 * Retry-After) is sent again, one whose fate is unknown (no answer, or 502 or 504 of the proxy) is not.
 */
class Poster {
  /** What became of each task, by its number, which is in the row. */
  readonly fates = new Map<number, 'made' | 'unknown'>();
  /** Answers that should not be: another status, or a body that is not one answer. */
  readonly strange: string[] = [];
  private running = true;
  private readonly done: Promise<unknown>;

  constructor(
    private readonly url: string,
    private readonly key: string,
    private readonly jobId: string,
  ) {
    this.done = Promise.all(Array.from({ length: WRITERS }, (_, index) => this.run(1 + index * 1_000_000)));
  }

  get made(): number {
    return [...this.fates.values()].filter((fate) => fate === 'made').length;
  }

  /** Resolves when some more tasks were made. */
  async goesOn(): Promise<void> {
    const before = this.made;
    await eventually(() => expect(this.made).to.be.greaterThan(before + 4 * WRITERS), { timeoutMs: 60_000 });
  }

  async stop(): Promise<void> {
    this.running = false;
    await this.done;
  }

  private async run(first: number): Promise<void> {
    for (let number = first; this.running; number += 1) {
      while (this.running && (await this.post(number)) === 'again') {
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    }
  }

  private async post(number: number): Promise<'again' | undefined> {
    let response: Response;
    let text: string;
    try {
      response = await fetch(`${this.url}/api/tasks`, {
        method: 'POST',
        headers: { 'x-api-key': this.key, 'content-type': 'application/json' },
        body: JSON.stringify({ job_id: this.jobId, task_definition_id: number }),
      });
      text = await response.text();
    } catch {
      this.fates.set(number, 'unknown');
      return undefined;
    }
    if (response.status === 201) {
      this.fates.set(number, 'made');
      try {
        JSON.parse(text);
      } catch {
        this.strange.push(text);
      }
      return undefined;
    }
    if (response.status === 503) {
      return 'again';
    }
    this.fates.set(number, 'unknown');
    if (response.status !== 502 && response.status !== 504) {
      this.strange.push(`${response.status} ${text}`);
    }
    return undefined;
  }
}

for (const kind of PROXIES) {
  describeWith([kind.program, ...POSTGRES_PROGRAMS, ...REDIS_PROGRAMS], `through ${kind.program}`, function () {
    this.timeout(240_000);
    let redis: RedisServer;
    let scene: Scene;
    let env: Record<string, string>;
    let instances: Instance[];
    let proxy: ReverseProxy;
    let url: string;
    const clients: Array<Subscriber | EventStream> = [];

    before(async () => {
      redis = await startRedis();
      const databaseUrl = await (await sharedPostgres()).createDatabase();
      scene = await Scene.make(databaseUrl, { users: 1, jobsPerUser: 2 });
      env = { DATABASE_URL: databaseUrl, REDIS_URL: redis.url, TRUSTED_PROXIES: 'loopback' };
      instances = await Promise.all([Instance.start({ env }), Instance.start({ env })]);
      proxy = await kind.start({ instances: instances.map(({ port }) => port) });
      ({ url } = proxy);
      await eventually(async () => expect((await fetch(`${url}/api/ws/health`)).status).to.equal(200));
    });

    after(async () => {
      for (const client of clients) {
        client.close();
      }
      await proxy?.stop();
      await Promise.all((instances ?? []).map((instance) => instance.kill()));
      await scene?.close();
      await redis?.stop();
    });

    it('clients of HTTP/1.0 are answered', async () => {
      for (const head of ['', `Host: a\r\nX-Api-Key: ${scene.serviceKey}\r\nConnection: keep-alive, close\r\n`]) {
        const answer = await raw(url, `GET /api/ws/health HTTP/1.0\r\n${head}\r\n`);
        expect(answer)
          .to.match(/^HTTP\/1\.[01] 200 /)
          .and.contain('"healthy"');
      }
    });

    it('clients that offer h2c are answered, with their body', async () => {
      const body = JSON.stringify({ job_id: scene.jobs[1]!.jobId, task_definition_id: 77 });
      const offer =
        'Connection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n';
      const common = `Host: a\r\nX-Api-Key: ${scene.serviceKey}\r\n${offer}`;
      const job = `/api/tasks/job/${scene.jobs[1]!.jobId}`;
      expect(await raw(url, `GET ${job} HTTP/1.1\r\n${common}\r\n`)).to.match(/^HTTP\/1\.1 200 /);
      const post = `POST /api/tasks HTTP/1.1\r\n${common}Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
      expect(await raw(url, post)).to.match(/^HTTP\/1\.1 201 /);
    });

    it('Server-Sent Events arrive one by one', async () => {
      const { jobId } = scene.jobs[1]!;
      const stream = new EventStream(`${url}/api/jobs/${jobId}/events`, {
        headers: { 'x-api-key': scene.serviceKey },
      });
      try {
        await eventually(() => expect(stream.status).to.equal(200));
        for (const number of [801, 802, 803]) {
          // Each is there before the next is written: nothing waits for more.
          await fetch(`${url}/api/tasks`, {
            method: 'POST',
            headers: { 'x-api-key': scene.serviceKey, 'content-type': 'application/json' },
            body: JSON.stringify({ job_id: jobId, task_definition_id: number }),
          });
          await stream.find(
            ({ type, data }) =>
              type === 'TASK_CREATED' && JSON.stringify(data).includes(`"task_definition_id":${number}`),
          );
        }
      } finally {
        stream.close();
      }
    });

    it('POSTs are made once, and streams lose nothing, while instances start, stop and die and the proxy is reloaded', async () => {
      const { jobId } = scene.jobs[0]!;
      const rooms = [`job:${jobId}`];
      const key = scene.keys.get('user_1')!;
      const subscribers = (['websocket', 'socket.io'] as const).map((wire) => new Subscriber(wire, url, key, rooms));
      const stream = new EventStream(`${url}/api/jobs/${jobId}/events`, {
        headers: { 'x-api-key': key },
        reconnects: true,
      });
      clients.push(...subscribers, stream);
      const live = () =>
        eventually(() => expect(subscribers.every((one) => one.live)).to.equal(true), { timeoutMs: 60_000 });
      await live();
      await stream.live();
      const poster = new Poster(url, scene.serviceKey, jobId);
      try {
        await poster.goesOn();
        for (const index of [0, 1]) {
          const { port } = instances[index]!;
          expect(await instances[index]!.stop()).to.equal(0);
          await poster.goesOn();
          instances[index] = await Instance.start({ env, port });
          await poster.goesOn();
        }
        await proxy.reload();
        await poster.goesOn();
        for (const index of [0, 1]) {
          const { port } = instances[index]!;
          await instances[index]!.kill();
          await poster.goesOn();
          instances[index] = await Instance.start({ env, port });
          await poster.goesOn();
        }
        await live();
      } finally {
        await poster.stop();
      }
      expect(poster.strange).to.deep.equal([]);
      const rows: Array<{ task_definition_id: string | number }> = await scene
        .db('tasks')
        .where({ job_id: jobId })
        .select('task_definition_id');
      const numbers = rows.map((row) => Number(row.task_definition_id));
      expect(new Set(numbers).size, 'a POST was made twice').to.equal(numbers.length);
      for (const [number, fate] of poster.fates) {
        if (fate === 'made') {
          expect(numbers).to.include(number);
        }
      }
      // Whatever is there was made, or may have been: a 503 was none.
      expect(numbers.filter((number) => !poster.fates.has(number))).to.deep.equal([]);
      const account = new Account(scene.db);
      for (const subscriber of subscribers) {
        await account.settle(subscriber);
      }
      const streamed = () =>
        stream.messages
          .filter(({ type }) => type === 'TASK_CREATED')
          .map(({ data }) => Number(data.changes?.task_definition_id ?? data.task_definition_id));
      await eventually(() => expect(streamed().sort()).to.deep.equal(numbers.sort()), { timeoutMs: 30_000 });
    });
  });

  describeStreams(kind);
  describeNames(kind);
}

/** A server in the place of an instance. */
async function upstream(answer: RequestListener, host = '127.0.0.1', port = 0): Promise<Server> {
  const server = createServer(answer);
  server.listen(port, host);
  await once(server, 'listening');
  return server;
}

function endAll(servers: readonly Server[]): void {
  for (const server of servers) {
    server.closeAllConnections();
    server.close();
  }
}

function describeStreams(kind: ProxyKind): void {
  describeWith([kind.program], `${kind.program} in front of instances that stream`, function () {
    this.timeout(60_000);
    let upstreams: Server[];
    let proxy: ReverseProxy;
    /** Streams that the instances hold, and what ends them. */
    let streams: ServerResponse[];

    beforeEach(async () => {
      streams = [];
      const answer: RequestListener = (request, response) => {
        const type = request.headers.accept ?? '';
        response.setHeader('content-type', type);
        if (type.includes('json-seq')) {
          response.end('whole');
        } else {
          streams.push(response);
          response.write('first\n');
        }
      };
      upstreams = [await upstream(answer), await upstream(answer)];
      proxy = await kind.start({ instances: upstreams.map((server) => (server.address() as AddressInfo).port) });
    });

    afterEach(async () => {
      await proxy?.stop();
      endAll(upstreams ?? []);
    });

    for (const type of ['text/event-stream', 'application/x-ndjson']) {
      it(`${type} arrives piece by piece, and ends at the instance when its client goes`, async () => {
        const response = await fetch(proxy.url, { headers: { accept: type } });
        const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
        expect((await reader.read()).value).to.equal('first\n');
        for (const piece of ['second\n', 'third\n']) {
          // Each is there before the next is written.
          streams[0]!.write(piece);
          expect((await reader.read()).value).to.equal(piece);
        }
        const closed = once(streams[0]!, 'close');
        await reader.cancel();
        await closed;
      });
    }

    if (kind.program === 'nginx') {
      // The others have no limits of their own.
      it('an EventSource that finds all connections of its address taken comes back', async () => {
        const get = (accept: string, method = 'GET'): Promise<Response> =>
          fetch(proxy.url, { method, headers: { accept } });
        const open = await Promise.all(Array.from({ length: 100 }, () => get('application/x-ndjson')));
        expect(new Set(open.map(({ status }) => status))).to.deep.equal(new Set([200]));
        const stream = await get('text/event-stream');
        expect([stream.status, await stream.text()]).to.deep.equal([200, 'retry: 5000\n\n']);
        expect((await get('text/event-stream', 'POST')).status).to.equal(429);
        expect((await get('application/x-ndjson')).status).to.equal(429);
        await open.pop()!.body!.cancel();
        await eventually(async () => {
          const reader = (await get('text/event-stream')).body!.pipeThrough(new TextDecoderStream()).getReader();
          const { value } = await reader.read();
          await reader.cancel();
          expect(value).to.equal('first\n');
        });
        await Promise.all(open.map(({ body }) => body!.cancel()));
      });
    }

    it('survives reloads while requests come as fast as they can', async () => {
      let running = true;
      let answered = 0;
      const requests = Array.from({ length: 32 }, async () => {
        while (running) {
          // A proxy may drop a request when it is reloaded; it has to be there afterwards.
          await fetch(proxy.url, { method: 'POST', headers: { accept: 'application/json-seq' }, body: 'x' }).then(
            async (response) => {
              answered += (await response.text()) === 'whole' ? 1 : 0;
            },
            () => {},
          );
        }
      });
      try {
        for (let reload = 0; reload < 10; reload += 1) {
          await proxy.reload();
          const before = answered;
          await eventually(() => expect(answered).to.be.greaterThan(before + 100));
        }
      } finally {
        running = false;
        await Promise.all(requests);
      }
    });
  });
}

function describeNames(kind: ProxyKind): void {
  const title = `${kind.program} in front of instances that get new addresses`;
  if (!kind.resolves) {
    describe.skip(`${title} [not run: this version looks names up at its start only]`, () => {});
    return;
  }
  describeWith([kind.program], title, function () {
    this.timeout(60_000);
    const servers: Server[] = [];

    afterEach(() => endAll(servers.splice(0)));

    const serve = async (host: string, port: number): Promise<Server> => {
      const server = await upstream((_request, response) => response.end(host), host, port);
      servers.push(server);
      return server;
    };

    it('finds both again, without a reload', async () => {
      const first = await serve('127.0.7.1', 0);
      const { port } = first.address() as AddressInfo;
      await serve('127.0.7.2', port);
      const addresses = new Map([
        ['taskwire-1', '127.0.7.1'],
        ['taskwire-2', '127.0.7.2'],
      ]);
      const names = await startNameServer(addresses);
      const proxy = await kind.start({
        instances: [`taskwire-1:${port}`, `taskwire-2:${port}`],
        nameServer: names.port,
      });
      try {
        const answers = async (expected: string[]) =>
          eventually(
            async () => {
              for (const method of ['GET', 'POST', 'PUT']) {
                const response = await fetch(proxy.url, { method });
                expect(response.status).to.equal(200);
                expect(expected).to.include(await response.text());
              }
            },
            { timeoutMs: 30_000 },
          );
        await answers(['127.0.7.1', '127.0.7.2']);
        endAll(servers.splice(0));
        await serve('127.0.7.3', port);
        await serve('127.0.7.4', port);
        addresses.set('taskwire-1', '127.0.7.3').set('taskwire-2', '127.0.7.4');
        await answers(['127.0.7.3', '127.0.7.4']);
      } finally {
        await proxy.stop();
        names.stop();
      }
    });
  });
}
