import { once } from 'node:events';
import { createServer, type RequestListener, type Server } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { expect } from 'chai';
import { answerAfterRequests } from '../../src/http/answer-after-request.js';
import { eventually } from '../support/eventually.js';

describe('an answer', () => {
  let server: Server;
  let seen: number;
  let answered: number;

  /** A server that answers before it has read anything. @param answer how */
  async function serve(answer: RequestListener): Promise<number> {
    seen = answered = 0;
    server = createServer((request, response) => {
      seen += 1;
      response.once('finish', () => {
        answered += 1;
      });
      answer(request, response);
    });
    answerAfterRequests(server);
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return (server.address() as AddressInfo).port;
  }

  afterEach(() => {
    server.closeAllConnections();
    server.close();
  });

  /** Sends a head and half of a body. @returns the connection and what comes */
  function half(port: number, head: string): { socket: Socket; text: () => string } {
    const socket = connect(port, '127.0.0.1');
    let text = '';
    socket.setEncoding('latin1').on('data', (chunk) => {
      text += chunk;
    });
    socket.on('error', () => {});
    socket.write(`POST / HTTP/1.1\r\nHost: a\r\n${head}\r\n\r\n`);
    return { socket, text: () => text };
  }

  /** Another request has gone through the whole server meanwhile. */
  const meanwhile = async (port: number): Promise<void> => {
    for (let count = 0; count < 3; count += 1) {
      await (await fetch(`http://127.0.0.1:${port}/`)).text();
    }
  };

  it('waits for the end of its request, with a body of a length and one in pieces', async () => {
    const port = await serve((_request, response) => response.writeHead(401, { 'Content-Length': 2 }).end('no'));
    for (const [head, first, second] of [
      ['Content-Length: 6', 'one', 'two'],
      ['Transfer-Encoding: chunked', '3\r\none\r\n', '3\r\ntwo\r\n0\r\n\r\n'],
    ] as const) {
      const before = [seen, answered] as const;
      const { socket, text } = half(port, head);
      socket.write(first);
      await eventually(() => expect(seen).to.equal(before[0] + 1));
      await meanwhile(port);
      expect(text()).to.equal('');
      expect(answered).to.equal(before[1] + 3);
      socket.write(second);
      await eventually(() => expect(text()).to.match(/^HTTP\/1\.1 401 [\s\S]*no$/));
    }
  });

  it('waits for no more than 8 MiB, and ends the connection then', async () => {
    const port = await serve((_request, response) => response.end('no'));
    const { socket, text } = half(port, 'Content-Length: 99999999');
    for (let count = 0; count < 9; count += 1) {
      socket.write(Buffer.alloc(1_024 * 1_024));
    }
    await eventually(() => expect(text()).to.match(/^HTTP\/1\.1 200 [\s\S]*Connection: close[\s\S]*no$/));
  });

  it('goes nowhere when the client has gone, and is given once', async () => {
    const port = await serve(({ method }, response) => {
      response.end('one');
      if (method === 'POST') {
        response.end('two');
      }
    });
    const gone = half(port, 'Content-Length: 6');
    await eventually(() => expect(seen).to.equal(1));
    gone.socket.destroy();
    const { socket, text } = half(port, 'Content-Length: 6');
    socket.write('onetwo');
    await eventually(() => expect(text()).to.match(/one$/));
    await meanwhile(port);
    expect(text()).to.not.contain('two');
  });
});
