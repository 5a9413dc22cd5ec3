import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { expect } from 'chai';
import { connectDatabase } from '../../src/database/connect-database.js';
import { ApiKeyRepository } from '../../src/repository/api-key-repository.js';
import { eventually } from '../support/eventually.js';
import { embeddedForTest, InProcessServer } from '../support/task-server.js';

describe('what cannot be read as a request', function () {
  this.timeout(60_000);
  let database: Awaited<ReturnType<typeof embeddedForTest>>;
  let server: InProcessServer;
  let key: string;
  let jobs = 0;

  before(async () => {
    database = await embeddedForTest();
    const db = connectDatabase({ url: database.url, pool: 1 });
    ({ key } = await new ApiKeyRepository(db).create({ owner: 'ada', role: 'service', rate_limit: 1_000 }));
    await db.destroy();
    server = new InProcessServer(database.url);
    await server.start();
  });

  after(async () => {
    await server?.stop();
    await database?.stop();
  });

  interface Client {
    readonly socket: Socket;
    readonly text: () => string;
    readonly ended: Promise<unknown>;
  }

  function open(): Client {
    const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
    let text = '';
    socket.setEncoding('latin1').on('data', (chunk) => {
      text += chunk;
    });
    return { socket, text: () => text, ended: once(socket, 'close') };
  }

  /** @returns all that comes until the connection ends */
  async function exchange(bytes: string | Buffer): Promise<string> {
    const client = open();
    client.socket.write(bytes);
    await client.ended;
    return client.text();
  }

  const statuses = (text: string): number[] =>
    [...text.matchAll(/HTTP\/1\.1 (\d+) /g)].map(([, status]) => Number(status));

  const errorOf = (answer: string): { code: string; message: string } =>
    JSON.parse(answer.slice(answer.lastIndexOf('\r\n\r\n'))).error;

  const headOf = (start: string, fields: string): string =>
    `${start} HTTP/1.1\r\nHost: a\r\nX-Api-Key: ${key}\r\n${fields}`;

  /** A request that makes a job. */
  function creation(fields = ''): string {
    jobs += 1;
    const body = `{"job_id":"${jobs}","user_id":"ada"}`;
    return `${headOf('POST /api/jobs', fields)}Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
  }

  for (const [what, bytes, status, message] of [
    ['no HTTP', 'hello\r\n\r\n', 400, /^This cannot be read as an HTTP request: /],
    ['TLS', Buffer.from('16030100c6010000c20303', 'hex'), 400, /^This cannot be read as an HTTP request: /],
    [
      'a header without a name',
      'GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n',
      400,
      /^This cannot be read as an HTTP request: /,
    ],
    [
      'two lengths',
      'POST /api/jobs HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}',
      400,
      /^This cannot be read as an HTTP request: /,
    ],
    [
      'a head without end',
      `GET / HTTP/1.1\r\nHost: a\r\nX: ${'x'.repeat(20_000)}`,
      431,
      /^The head of a request may have 16384 bytes$/,
    ],
  ] as const) {
    it(`is answered with an error of the table: ${what}`, async () => {
      const answer = await exchange(bytes);
      expect(statuses(answer)).to.deep.equal([status]);
      expect(answer).to.match(/\r\nConnection: close\r\nContent-Type: application\/json; charset=utf-8\r\n/);
      const { code, message: words } = errorOf(answer);
      expect(code).to.equal('INVALID_REQUEST');
      expect(words).to.match(message);
    });
  }

  it('is answered behind the requests before it, which are handled', async () => {
    const answer = await exchange(`${creation()}${creation()}what is this?\r\n\r\n`);
    expect(statuses(answer)).to.deep.equal([201, 201, 400]);
    expect(errorOf(answer).code).to.equal('INVALID_REQUEST');
    const read = await fetch(`${server.url}/api/jobs/${jobs}`, { headers: { 'x-api-key': key } });
    expect(read.status).to.equal(200);
  });

  it('is answered once, whatever else comes', async () => {
    const { socket, text, ended } = open();
    // The answers before it are not there yet when the rest comes.
    socket.write(`${creation()}what is this?\r\n\r\n`);
    for (let count = 0; count < 100; count += 1) {
      socket.write('and this?\r\n\r\n');
    }
    await ended;
    expect(statuses(text())).to.deep.equal([201, 400]);
  });

  it('may be the end of a body: the request is refused, and makes nothing', async () => {
    const begun = `${headOf('POST /api/jobs', 'Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n')}\r\n5\r\n{"job\r\n`;
    const answer = await exchange(`${begun}no length\r\n`);
    expect(statuses(answer)).to.deep.equal([400]);
    expect(errorOf(answer).code).to.equal('INVALID_REQUEST');
    const behind = await exchange(`${creation()}${begun}no length\r\n`);
    expect(statuses(behind)).to.deep.equal([201, 400]);
  });

  it('does not come into an answer that is under way', async () => {
    await exchange(creation('Connection: close\r\n'));
    const { socket, text, ended } = open();
    socket.write(`${headOf(`GET /api/jobs/${jobs}/events`, 'Accept: application/x-ndjson\r\n')}\r\n`);
    await eventually(() => expect(text()).to.include('"SUCCESS"'));
    socket.write('what is this?\r\n\r\n');
    socket.write(Buffer.alloc(64_000_000, 'x'));
    // The stream goes on.
    const made = await fetch(`${server.url}/api/tasks`, {
      method: 'POST',
      headers: { 'x-api-key': key, 'content-type': 'application/json' },
      body: JSON.stringify({ job_id: String(jobs), task_definition_id: 1 }),
    });
    expect(made.status).to.equal(201);
    await eventually(() => expect(text()).to.include('TASK_CREATED'));
    expect(statuses(text())).to.deep.equal([200]);
    // What nobody wants is not read, however much else is done meanwhile.
    for (let count = 0; count < 200; count += 1) {
      await (await fetch(`${server.url}/api/ws/health`)).text();
    }
    expect(socket.writableLength).to.be.greaterThan(0);
    socket.destroy();
    await ended;
  });

  it('ends nothing but its connection when it is reset', async () => {
    for (let count = 0; count < 50; count += 1) {
      const { socket, ended } = open();
      socket.write(`${creation()}what is this?\r\n\r\n`, () => socket.resetAndDestroy());
      await ended;
    }
    expect((await fetch(`${server.url}/api/ws/health`)).status).to.equal(200);
  });
});
