import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { expect } from 'chai';
import { connectDatabase } from '../../src/database/connect-database.js';
import { ApiKeyRepository } from '../../src/repository/api-key-repository.js';
import { eventually } from '../support/eventually.js';
import { freePort } from '../support/programs.js';
import { embeddedForTest, InProcessServer } from '../support/task-server.js';

describe('requests that offer another protocol', function () {
  this.timeout(60_000);
  let database: Awaited<ReturnType<typeof embeddedForTest>>;
  let server: InProcessServer;
  let key: string;
  let restPort: number;

  before(async () => {
    database = await embeddedForTest();
    const db = connectDatabase({ url: database.url, pool: 1 });
    ({ key } = await new ApiKeyRepository(db).create({ owner: 'ada', role: 'service', rate_limit: 1_000 }));
    await db.destroy();
    restPort = await freePort();
    server = new InProcessServer(database.url, { HOST: '127.0.0.1', REST_PORT: String(restPort) });
    await server.start();
  });

  after(async () => {
    await server?.stop();
    await database?.stop();
  });

  /** Sends pieces, one read each, and returns all that comes until the connection ends. */
  const exchange = (...pieces: string[]): Promise<string> => exchangeAt(Number(new URL(server.url).port), pieces);

  async function exchangeAt(port: number, pieces: readonly string[]): Promise<string> {
    const socket = connect(port, '127.0.0.1');
    let answer = '';
    socket.setEncoding('latin1').on('data', (text) => {
      answer += text;
    });
    await once(socket, 'connect');
    for (const piece of pieces) {
      await new Promise((resolve) => socket.write(piece, resolve));
    }
    await once(socket, 'close');
    return answer;
  }

  const H2C =
    'Connection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n';

  const WEBSOCKET = 'Connection: close, Upgrade\r\nUpgrade: websocket\r\n';
  const HANDSHAKE = `${WEBSOCKET}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n`;

  let jobs = 100;

  it('are answered as if they did not', async () => {
    expect(await exchange(`GET /api/ws/health HTTP/1.1\r\nHost: a\r\n${H2C}\r\n`)).to.match(/^HTTP\/1\.1 200 /);
    expect(await exchange(`GET /nothing HTTP/1.1\r\nHost: a\r\n${H2C}\r\n`)).to.include('NOT_FOUND');
    expect(
      await exchange(
        'GET /api/ws/health HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: a/1\r\n\r\n' +
          'GET /api/ws/health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n',
      ),
    ).to.match(/^HTTP\/1\.1 200 [\s\S]*HTTP\/1\.1 200 /);
  });

  it('keep their headers and their body, in however many pieces these come', async () => {
    const request = (jobId: number): [head: string, body: string] => {
      const body = `{"job_id":"${jobId}","user_id":"ada"}`;
      const head = [
        'POST /api/jobs HTTP/1.1\r\nHost: a\r\nContent-Type: application/json',
        `Content-Length: ${body.length}\r\nX-Api-Key: ${key}\r\n${H2C}\r\n`,
      ].join('\r\n');
      return [head, body];
    };
    const [head, body] = request(1);
    expect(await exchange(head, body.slice(0, 5), body.slice(5))).to.match(/^HTTP\/1\.1 201 /);
    expect(await exchange(request(2).join(''))).to.match(/^HTTP\/1\.1 201 /);
  });

  it('may come again and again on one connection: it keeps nothing of them', async () => {
    const near = once(server.server.http, 'connection') as Promise<[Socket]>;
    const socket = connect(Number(new URL(server.url).port), '127.0.0.1').setEncoding('latin1');
    const [kept] = await near;
    const counts = new Set<number>();
    for (const offer of ['h2c', 'websocket', 'h2c', 'websocket', 'h2c']) {
      socket.write(
        `POST /api/nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nConnection: Upgrade\r\nUpgrade: ${offer}\r\n\r\n{}`,
      );
      expect((await once(socket, 'data'))[0]).to.match(/^HTTP\/1\.1 404 /);
      counts.add(kept.eventNames().reduce((sum, name) => sum + kept.listenerCount(name), 0));
    }
    socket.destroy();
    expect(counts.size).to.equal(1);
  });

  for (const [what, second, statuses] of [
    ['another protocol', 'POST /api/jobs HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c', [201, 201, 200]],
    // What is refused ends its connection.
    ['a WebSocket elsewhere', 'GET /api/ws/health HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket', [201, 404]],
  ] as const) {
    it(`are answered in turn when they are sent behind another one: ${what}`, async () => {
      const request = (start: string, jobId: number): string => {
        const body = start.startsWith('POST') ? `{"job_id":"${jobId}","user_id":"ada"}` : '';
        const fields = `Host: a\r\nContent-Type: application/json\r\nX-Api-Key: ${key}`;
        return `${start}\r\n${fields}\r\n${body === '' ? '' : `Content-Length: ${body.length}\r\n`}\r\n${body}`;
      };
      jobs += 2;
      const answer = await exchange(
        request('POST /api/jobs HTTP/1.1', jobs - 1) +
          request(second, jobs) +
          request('GET /api/ws/health HTTP/1.1\r\nConnection: close', 0),
      );
      expect([...answer.matchAll(/HTTP\/1\.1 (\d+) /g)].map(([, status]) => Number(status))).to.deep.equal(statuses);
    });
  }

  it('of WebSockets are taken when what was sent before is answered', async () => {
    const socket = connect(Number(new URL(server.url).port), '127.0.0.1').setEncoding('latin1');
    let answer = '';
    socket.on('data', (text) => {
      answer += text;
    });
    socket.write(
      `GET /api/jobs/1 HTTP/1.1\r\nHost: a\r\nX-Api-Key: ${key}\r\n\r\n` +
        `GET /api/ws/tasks?api_key=${key} HTTP/1.1\r\nHost: a\r\n${HANDSHAKE}\r\n`,
    );
    await eventually(() => expect(answer).to.match(/^HTTP\/1\.1 (?:200|404) [\s\S]*HTTP\/1\.1 101 /));
    socket.destroy();
  });

  it('may be polls of Engine.IO', async () => {
    const answer = await exchange(`GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\n${H2C}\r\n`);
    expect(answer).to.match(/^HTTP\/1\.1 200 [\s\S]*"sid":/);
  });

  const ENGINE = '/socket.io/?EIO=4&transport=websocket';

  /** What an answer says, without what differs from one request to the next. */
  const said = (answer: string): string =>
    answer
      .replace(/^(Date|X-Request-Id|X-RateLimit-[\w-]+|RateLimit[\w-]*): .*\r\n/gim, '')
      .replace(/"(job_id|created_at|timestamp)":("[^"]*"|\d+)/g, '"$1":…');

  describe('of WebSockets, and have a body or another method than GET', () => {
    for (const [line, more, status] of [
      ['POST /api/jobs', '', 201],
      ['POST /api/ws/tasks', '', 405],
      [`POST ${ENGINE}`, '', 400],
      ['PUT /api/nothing', '', 404],
      ['GET /api/ws/health', '', 200],
      ['GET /api/ws/tasks', '', 400],
      [`GET ${ENGINE}`, '', 400],
      ['POST /api/jobs', 'Content-Encoding: x\r\n', 415],
    ] as const) {
      it(`are answered like those without the offer, after they were read: ${line} ${more.trim()}`, async () => {
        const request = (offer: string, chunked: boolean): string[] => {
          jobs += 1;
          const body = `{"job_id":"${jobs}","user_id":"ada"}`;
          const head = `${line} HTTP/1.1\r\nHost: a\r\nX-Api-Key: ${key}\r\nContent-Type: application/json\r\n${more}${offer}`;
          return chunked
            ? [`${head}Transfer-Encoding: chunked\r\n\r\n${body.length.toString(16)}\r\n`, body, '\r\n0\r\n\r\n']
            : [`${head}Content-Length: ${body.length}\r\n\r\n`, body.slice(0, 3), body.slice(3)];
        };
        const port = Number(new URL(server.url).port);
        for (const chunked of [false, true]) {
          const answer = await exchangeAt(port, request(HANDSHAKE, chunked));
          expect(answer).to.match(new RegExp(`^HTTP/1\\.1 ${status} `));
          expect(said(answer)).to.equal(said(await exchangeAt(port, request('Connection: close\r\n', chunked))));
          // The port for REST has never looked at such offers.
          const there = await exchangeAt(restPort, request(HANDSHAKE, chunked));
          expect(said(there)).to.equal(said(await exchangeAt(restPort, request('Connection: close\r\n', chunked))));
        }
      });
    }

    it('are answered when the body is large: nothing is left unread', async () => {
      const body = 'x'.repeat(5_000_000);
      const head = `POST /api/tasks HTTP/1.1\r\nHost: a\r\nContent-Length: ${body.length}\r\n${HANDSHAKE}\r\n`;
      expect(await exchange(head, body)).to.match(/^HTTP\/1\.1 401 [\s\S]*"MISSING_API_KEY"/);
    });

    for (const method of ['OPTIONS', 'HEAD', 'DELETE']) {
      it(`are answered without a body too: ${method}`, async () => {
        for (const path of ['/api/ws/tasks', ENGINE, '/api/nothing']) {
          const line = `${method} ${path} HTTP/1.1\r\nHost: a\r\n`;
          const answer = await exchange(`${line}${HANDSHAKE}\r\n`);
          expect(answer, path).to.match(/^HTTP\/1\.1 \d/);
          expect(said(answer), path).to.equal(said(await exchange(`${line}Connection: close\r\n\r\n`)));
        }
      });
    }
  });

  describe('of WebSockets, and cannot be taken', () => {
    for (const [title, path, headers, reason] of [
      ['without a key', '/api/ws/tasks', `${WEBSOCKET}Sec-WebSocket-Version: 13\r\n`, /Sec-WebSocket-Key/],
      ['of another version', '/api/ws/tasks', HANDSHAKE.replace('13', '7'), /Sec-WebSocket-Version/],
      ['of several protocols', '/api/ws/tasks', HANDSHAKE.replace('websocket', 'websocket, h2c'), /Upgrade/],
      ['without a key, at Socket.IO', ENGINE, `${WEBSOCKET}Sec-WebSocket-Version: 13\r\n`, /Sec-WebSocket-Key/],
      ['of another version, at Socket.IO', ENGINE, HANDSHAKE.replace('13', '7'), /Sec-WebSocket-Version/],
      ['of EIO=3', '/socket.io/?EIO=3&transport=websocket', HANDSHAKE, /protocol 4/],
      ['of an unknown session', `${ENGINE}&sid=${'a'.repeat(20)}`, HANDSHAKE, /Session ID unknown/],
    ] as const) {
      it(`are told why, as an error of the table: ${title}`, async () => {
        const answer = await exchange(`GET ${path} HTTP/1.1\r\nHost: a\r\n${headers}\r\n`);
        const [head, body] = answer.split('\r\n\r\n');
        expect(head).to.match(/^HTTP\/1\.1 400 Bad Request\r\n/);
        expect(head).to.match(/^Content-Type: application\/json/m);
        const { error } = JSON.parse(body!);
        expect(error.code).to.equal('INVALID_REQUEST');
        expect(error.message).to.match(reason);
        if (title.includes('version')) {
          expect(head).to.match(/^Sec-WebSocket-Version: 13, 8$/m);
        }
      });
    }
  });
});
