import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { expect } from 'chai';
import express, { type Express } from 'express';
import { SilentConnections } from '../../src/door/silent-connections.js';
import { createEndpoint } from '../../src/http/endpoint.js';
import { restQueues } from '../../src/http/queues.js';
import { endStalledAnswers } from '../../src/http/stalled-answers.js';
import type { Identity } from '../../src/protocol/tasks.js';
import { eventually } from '../support/eventually.js';
import { ThinLine } from '../support/thin-line.js';

const MANY = 30_000_000;

describe('slow requests', function () {
  this.timeout(30_000);
  let server: Server;
  let port: number;
  const sockets: Socket[] = [];

  async function serve(listener?: Express): Promise<void> {
    server = createServer(listener).listen(0, '127.0.0.1');
    await once(server, 'listening');
    ({ port } = server.address() as AddressInfo);
  }

  /** Says something, and reads nothing. */
  function silent(text: string): Socket {
    const socket = connect(port, '127.0.0.1');
    socket.on('error', () => {});
    socket.write(text);
    sockets.push(socket);
    return socket;
  }

  afterEach(() => {
    for (const socket of sockets.splice(0)) {
      socket.destroy();
    }
    server.closeAllConnections();
    server.close();
  });

  describe('of which the answer', () => {
    let closed: boolean;

    const app = (stallMs: number): Express => {
      const made = express();
      closed = false;
      made.use(endStalledAnswers(stallMs));
      made.get('/', (_request, response) => {
        response.once('close', () => {
          closed = true;
        });
        response.send(Buffer.alloc(MANY));
      });
      return made;
    };

    it('is not read are ended', async () => {
      await serve(app(400));
      const client = silent('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
      await eventually(() => expect(closed).to.equal(true));
      expect(client.bytesRead).to.be.below(MANY);
    });

    it('is read slowly have their time', async () => {
      await serve(app(1_600));
      const line = await ThinLine.start(port, MANY / 4);
      try {
        const response = await fetch(line.url);
        expect((await response.arrayBuffer()).byteLength).to.equal(MANY);
        await eventually(() => expect(closed).to.equal(true));
      } finally {
        await line.stop();
      }
    });
  });

  describe('of one key', () => {
    let handled: string[];
    let reading: number;

    beforeEach(async () => {
      handled = [];
      reading = 0;
      const made = express();
      const endpoint = createEndpoint({
        authenticate: async (request) => ({ keyId: request.get('X-Api-Key'), scopes: ['read'] }) as unknown as Identity,
        countMore: async () => {},
        readJson: (request) => {
          reading += 1;
          return request.get('Content-Length') === undefined ? Promise.resolve(undefined) : new Promise(() => {});
        },
        queues: restQueues({ writes: 4, reads: 4 }),
      });
      made.get(
        '/:size',
        endpoint(async ({ identity, params }) => {
          handled.push(identity.keyId);
          return { body: `"${'x'.repeat(Number(params['size']))}"` };
        }, 'read'),
      );
      made.post(
        '/',
        endpoint(async () => ({ body: {} }), 'read'),
      );
      await serve(made);
    });

    const get = (key: string, size: number): string => `GET /${size} HTTP/1.1\r\nHost: a\r\nX-Api-Key: ${key}\r\n\r\n`;

    it('keep eight answers that are not read, and nothing of other keys', async () => {
      const slow = Array.from({ length: 12 }, () => silent(get('slow', MANY)));
      await eventually(() => expect(handled).to.have.length(8));
      const response = await fetch(`http://127.0.0.1:${port}/5`, { headers: { 'x-api-key': 'quick' } });
      expect(await response.json()).to.equal('xxxxx');
      expect(handled).to.deep.equal([...Array<string>(8).fill('slow'), 'quick']);
      slow[0]!.destroy();
      await eventually(() => expect(handled).to.have.length(10));
    });

    it('have thirty-two bodies under way, and the others are not read', async () => {
      const head = 'POST / HTTP/1.1\r\nHost: a\r\nX-Api-Key: slow\r\nContent-Length: 9\r\n\r\n';
      for (let n = 0; n < 40; n += 1) {
        silent(head);
      }
      await eventually(() => expect(reading).to.equal(32));
      silent(head.replace('slow', 'other'));
      await eventually(() => expect(reading).to.equal(33));
    });
  });

  it('that do not come are cut off when there are too many of an address, and those that come are not', async () => {
    const connections = new SilentConnections(60_000);
    try {
      await serve();
      server.on('request', (_request, response) => response.end());
      connections.watch(server);
      const busy = silent('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
      await once(busy, 'readable');
      for (let n = 0; n < 256; n += 1) {
        silent(n % 2 === 0 ? '' : 'GET / HT');
      }
      // The oldest one goes, once it has had a second.
      await eventually(
        () => {
          silent('');
          expect(sockets.some(({ destroyed }) => destroyed)).to.equal(true);
        },
        { intervalMs: 100 },
      );
      expect(busy.destroyed).to.equal(false);
    } finally {
      connections.stop();
    }
  });
});
