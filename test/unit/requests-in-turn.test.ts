import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { expect } from 'chai';
import { handleInTurn } from '../../src/http/requests-in-turn.js';
import { eventually } from '../support/eventually.js';

describe('requests of one connection', () => {
  let server: Server;
  let client: Socket;
  let text: string;
  let handled: string[];
  let held: ServerResponse[];
  let closed: string[];

  beforeEach(async () => {
    [text, handled, held, closed] = ['', [], [], []];
    server = createServer((request: IncomingMessage, response: ServerResponse) => {
      handled.push(request.url!);
      held.push(response);
      response.once('close', () => closed.push(request.url!));
      request.resume();
    });
    handleInTurn(server);
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    client = connect((server.address() as AddressInfo).port, '127.0.0.1').setEncoding('latin1');
    client.on('data', (chunk) => {
      text += chunk;
    });
    client.on('error', () => {});
  });

  afterEach(() => {
    client.destroy();
    server.closeAllConnections();
    server.close();
  });

  const get = (path: string): string => `GET ${path} HTTP/1.1\r\nHost: a\r\n\r\n`;
  const post = (path: string, body: string): string =>
    `POST ${path} HTTP/1.1\r\nHost: a\r\nContent-Length: ${body.length}\r\n\r\n${body}`;
  const answers = (): number => [...text.matchAll(/HTTP\/1\.1 200 /g)].length;

  /** What was sent so far has been read when a request of a connection that came later has been. */
  async function read(): Promise<void> {
    const later = connect((server.address() as AddressInfo).port, '127.0.0.1');
    later.write(get('/later'));
    await eventually(() => expect(handled).to.include('/later'));
    later.destroy();
    await eventually(() => expect(closed).to.include('/later'));
    const place = handled.indexOf('/later');
    handled.splice(place, 1);
    held.splice(place, 1);
    closed.splice(closed.indexOf('/later'), 1);
  }

  it('are handled one after the other, as their answers leave', async () => {
    client.write(get('/1') + post('/2', '{}') + get('/3'));
    await read();
    expect(handled).to.deep.equal(['/1']);
    held[0]!.end('one');
    await eventually(() => expect(handled).to.deep.equal(['/1', '/2']));
    held[1]!.end('two');
    await eventually(() => expect(handled).to.deep.equal(['/1', '/2', '/3']));
    held[2]!.end('three');
    await eventually(() => expect(text).to.match(/one[\s\S]*two[\s\S]*three/));
    // The connection is kept.
    client.write(get('/4'));
    await eventually(() => expect(handled).to.have.length(4));
    held[3]!.end('four');
    await eventually(() => expect(answers()).to.equal(4));
  });

  it('are not handled behind an answer that ends it: nobody could be answered', async () => {
    client.write(post('/1', '{}') + post('/2', '{}').repeat(1_000));
    await read();
    const ended = once(client, 'close');
    held[0]!.setHeader('Connection', 'close').end('one');
    await ended;
    expect(handled).to.deep.equal(['/1']);
    expect(answers()).to.equal(1);
  });

  it('are not handled when they come while the connection ends', async () => {
    client.write(get('/1'));
    await eventually(() => expect(handled).to.deep.equal(['/1']));
    const ended = once(client, 'close');
    const socket = held[0]!.socket!;
    held[0]!.once('close', () => socket.emit('data', Buffer.from(post('/2', '{}') + get('/3'))));
    held[0]!.setHeader('Connection', 'close').end('one');
    await ended;
    expect(handled).to.deep.equal(['/1']);
    expect(answers()).to.equal(1);
  });

  it('are forgotten when the client has gone', async () => {
    client.write(get('/1') + get('/2'));
    await read();
    client.destroy();
    await eventually(() => expect(closed).to.deep.equal(['/1']));
    await read();
    expect(handled).to.deep.equal(['/1']);
  });

  it('wait in a bounded number: the answer to the last of them ends the connection', async () => {
    const ended = once(client, 'close');
    client.write(get('/x').repeat(5_000));
    await read();
    for (let count = 0; count < 101; count += 1) {
      await eventually(() => expect(held).to.have.length(count + 1));
      held[count]!.end('x');
    }
    await ended;
    expect(handled).to.have.length(101);
    expect(answers()).to.equal(101);
    expect([...text.matchAll(/connection: close/gi)]).to.have.length(1);
  });
});
