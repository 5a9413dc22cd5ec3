import { once } from 'node:events';
import { connect } from 'node:net';
import { expect } from 'chai';
import { ApiKeyRepository } from '../../src/repository/api-key-repository.js';
import { connectDatabase } from '../../src/repository/connect-database.js';
import { embeddedForTest, InProcessServer } from '../support/task-server.js';

describe('requests that offer another protocol', function () {
  this.timeout(60_000);
  let database: Awaited<ReturnType<typeof embeddedForTest>>;
  let server: InProcessServer;
  let key: string;

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

  /** Sends pieces, one read each, and returns all that comes until the connection ends. */
  async function exchange(...pieces: string[]): Promise<string> {
    const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
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

  it('may be polls of Engine.IO', async () => {
    const answer = await exchange(`GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\n${H2C}\r\n`);
    expect(answer).to.match(/^HTTP\/1\.1 200 [\s\S]*"sid":/);
  });
});
