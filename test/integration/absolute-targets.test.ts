import { once } from 'node:events';
import { connect } from 'node:net';
import { expect } from 'chai';
import { embeddedForTest, InProcessServer } from '../support/task-server.js';

describe('targets with scheme and host', function () {
  this.timeout(60_000);
  let database: Awaited<ReturnType<typeof embeddedForTest>>;
  let server: InProcessServer;

  before(async () => {
    database = await embeddedForTest();
    server = new InProcessServer(database.url);
    await server.start();
  });

  after(async () => {
    await server?.stop();
    await database?.stop();
  });

  /** @returns the beginning of an answer */
  async function ask(target: string, fields = ''): Promise<string> {
    const socket = connect(Number(new URL(server.url).port), '127.0.0.1').setEncoding('latin1');
    socket.write(`GET ${target} HTTP/1.1\r\nHost: a\r\n${fields}\r\n`);
    const [text] = (await once(socket, 'data')) as [string];
    socket.destroy();
    return text;
  }

  const OFFER =
    'Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n';

  for (const [path, fields, status] of [
    ['/api/ws/health', '', 200],
    ['/api/ws/health', 'Connection: Upgrade\r\nUpgrade: h2c\r\n', 200],
    ['/api/nothing', '', 404],
    ['', '', 404],
    ['/socket.io/?EIO=4&transport=polling', '', 200],
    ['/socket.io/?EIO=4&transport=websocket', OFFER, 101],
    ['/socket.io/?EIO=3&transport=websocket', OFFER, 400],
    ['/api/ws/tasks', OFFER, 101],
    ['/api/ws/tasks?api_key=x', OFFER, 101],
    ['/api/ws', OFFER, 404],
    ['?EIO=4', OFFER, 404],
  ] as const) {
    it(`mean the same as without: ${path} ${/Upgrade: (\S*)/.exec(fields)?.[1] ?? ''}`, async () => {
      for (const origin of ['http://a', 'https://user@tasks.example:9002', 'HTTP://[::1]:80']) {
        expect(await ask(`${origin}${path}`, fields)).to.match(new RegExp(`^HTTP/1\\.1 ${status} `));
      }
      expect(await ask(path.replace(/^(?!\/)/, '/'), fields)).to.match(new RegExp(`^HTTP/1\\.1 ${status} `));
    });
  }
});
