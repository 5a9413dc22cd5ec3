import { once } from 'node:events';
import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { Instance } from '../support/instance.js';
import { POSTGRES_PROGRAMS, type PostgresServer, startPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { Scene } from '../support/scene.js';

/** A body of some size whose JSON is small. */
const bodyOf = (jobId: string, bytes: number): string =>
  `{"job_id":"${jobId}",${' '.repeat(bytes)}"task_definition_id":1,"is_imua":false}`;

/** Headers of a handshake. */
const OFFER = [
  'Connection: Upgrade',
  'Upgrade: websocket',
  'Sec-WebSocket-Version: 13',
  'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
].join('\r\n');

describeWith(POSTGRES_PROGRAMS, 'request bodies through the primary', function () {
  this.timeout(60_000);
  let postgres: PostgresServer;
  let scene: Scene;
  let instance: Instance;

  before(async () => {
    postgres = await startPostgres();
    const databaseUrl = await postgres.createDatabase();
    scene = await Scene.make(databaseUrl, { users: 1, jobsPerUser: 1 });
    instance = await Instance.start({ workers: 2, env: { DATABASE_URL: databaseUrl } });
  });

  after(async () => {
    await instance?.kill();
    await scene?.close();
    await postgres?.stop();
  });

  it('are read to their end, whatever their size', async () => {
    for (const bytes of [0, 60_000, 130_000, 500_000, 900_000]) {
      const answer = await fetch(`${instance.url}/api/tasks`, {
        method: 'POST',
        headers: { 'x-api-key': scene.serviceKey, 'content-type': 'application/json' },
        body: bodyOf(scene.jobs[0]!.jobId, bytes),
      });
      expect(answer.status, `${bytes} bytes`).to.equal(201);
    }
  });

  it('are read to their end in however many pieces they come', async () => {
    const body = bodyOf(scene.jobs[0]!.jobId, 1_000);
    const head = [
      'POST /api/tasks HTTP/1.1',
      'Host: 127.0.0.1',
      `X-Api-Key: ${scene.serviceKey}`,
      'Content-Type: application/json',
      `Content-Length: ${body.length}`,
      '\r\n',
    ].join('\r\n');
    const socket = connect(instance.port, '127.0.0.1');
    await once(socket, 'connect');
    let answer = '';
    socket.setEncoding('latin1').on('data', (text) => {
      answer += text;
    });
    socket.write(head);
    for (let from = 0; from < body.length; from += 200) {
      // Each piece is a read of its own.
      await sleep(20);
      socket.write(body.slice(from, from + 200));
    }
    await once(socket, 'close');
    expect(answer).to.match(/^HTTP\/1\.1 201 /);
  });

  it('are handled only when somebody can be answered: not behind the one request of a connection', async () => {
    const count = async (): Promise<number> =>
      Number((await scene.db('tasks').where({ task_definition_id: 90 }).count())[0]!['count']);
    const body = `{"job_id":"${scene.jobs[0]!.jobId}","task_definition_id":90,"is_imua":false}`;
    const head = `POST /api/tasks HTTP/1.1\r\nHost: a\r\nX-Api-Key: ${scene.serviceKey}\r\nContent-Type: application/json\r\n`;
    const socket = connect(instance.port, '127.0.0.1');
    let answer = '';
    socket.setEncoding('latin1').on('data', (text) => {
      answer += text;
    });
    socket.write(`${head}Content-Length: ${body.length}\r\n\r\n${body}`.repeat(3));
    await once(socket, 'close');
    expect(answer.match(/HTTP\/1\.1 201 /g)).to.have.length(1);
    expect(await count()).to.equal(1);
  });

  /** Sends a request in two halves. @returns what had come before the second half, and everything */
  async function inHalves(head: readonly string[], body: string, whole: () => Promise<unknown>) {
    const socket = connect(instance.port, '127.0.0.1');
    await once(socket, 'connect');
    let answer = '';
    socket.setEncoding('latin1').on('data', (text) => {
      answer += text;
    });
    const lines = [...head, 'Host: a', 'Content-Type: application/json', `Content-Length: ${body.length}`, '\r\n'];
    const half = Math.floor(body.length / 2);
    socket.write(lines.join('\r\n') + body.slice(0, half));
    // The same, in one piece, is answered meanwhile.
    for (let count = 0; count < 5; count += 1) {
      await whole();
    }
    const early = answer;
    socket.write(body.slice(half));
    await once(socket, 'close');
    return { early, answer };
  }

  for (const [what, line, key, size, status] of [
    ['a wrong key', 'POST /api/tasks HTTP/1.1', 'tw_wrong', 100, 401],
    ['a body that is too large', 'POST /api/tasks HTTP/1.1', 'service', 3_000_000, 413],
    ['a body of another type', 'POST /api/tasks HTTP/1.1\r\nContent-Encoding: x', 'service', 100, 415],
    ['a path that is not there', 'PUT /api/nothing HTTP/1.1', 'service', 100, 404],
    ['a method that is not there', 'DELETE /api/jobs HTTP/1.1', 'service', 100, 405],
    [
      'a session of polling that is not there',
      `POST /socket.io/?EIO=4&transport=polling&sid=${'a'.repeat(20)} HTTP/1.1`,
      '',
      100,
      400,
    ],
    ['an offer of a WebSocket, to REST', `POST /api/tasks HTTP/1.1\r\n${OFFER}`, 'tw_wrong', 100, 401],
    ['the same with a large body', `POST /api/tasks HTTP/1.1\r\n${OFFER}`, 'service', 3_000_000, 413],
    ['the same to plain WebSockets', `POST /api/ws/tasks HTTP/1.1\r\n${OFFER}`, '', 100, 405],
    ['the same to Socket.IO', `POST /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n${OFFER}`, '', 100, 400],
    ['an answer that needs no body', 'GET /api/ws/health HTTP/1.1', '', 100, 200],
  ] as const) {
    it(`are read before they are answered: ${what}`, async () => {
      const body = bodyOf(scene.jobs[0]!.jobId, size);
      const head = [line, `X-Api-Key: ${key === 'service' ? scene.serviceKey : key}`];
      const { early, answer } = await inHalves(head, body, async () => {
        const other = connect(instance.port, '127.0.0.1');
        other.write([...head, 'Host: a', 'Content-Length: 0', '\r\n'].join('\r\n'));
        expect((await other.setEncoding('latin1').toArray()).join('')).to.match(/^HTTP\/1\.1 \d/);
      });
      expect(early).to.equal('');
      expect(answer).to.match(new RegExp(`^HTTP/1\\.1 ${status} `));
    });
  }

  it('are read before they are answered, and the connection ends: an expectation that nobody meets', async () => {
    const head = ['POST /api/tasks HTTP/1.1', 'Expect: wonders'];
    const { early, answer } = await inHalves(head, bodyOf('1', 100), () => fetch(`${instance.url}/api/ws/health`));
    expect(early).to.equal('');
    expect(answer).to.match(/^HTTP\/1\.1 400 [\s\S]*"code":"INVALID_REQUEST"/);
    expect(answer).to.match(/^Connection: close$/m);
  });

  for (const [what, bytes] of [
    ['lines that end with a line feed alone', 'GET /api/ws/health HTTP/1.1\nHost: a\n\n'],
    ['TLS', `\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03${'\x07'.repeat(200)}`],
  ] as const) {
    it(`are not waited for when this is no HTTP: ${what}`, async () => {
      const socket = connect(instance.port, '127.0.0.1');
      socket.write(bytes, 'latin1');
      expect((await socket.setEncoding('latin1').toArray()).join('')).to.match(/^HTTP\/1\.1 400 /);
    });
  }
});
