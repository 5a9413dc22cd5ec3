import cluster, { type Worker } from 'node:cluster';
import { EventEmitter, once } from 'node:events';
import type { Server } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { setImmediate as turn } from 'node:timers/promises';
import { expect } from 'chai';
import type { HandOver } from '../../src/cluster/sticky-corrections.js';
import { serveHandedOver, sessionOf, withOpening, withoutOpening } from '../../src/cluster/sticky-corrections.js';
import { createStickyListener, type StickyListener } from '../../src/cluster/sticky-listener.js';
import { errorEntry } from '../../src/protocol/errors.js';
import { eventually } from '../support/eventually.js';

const SESSION = 'abcdefghij_-ABCDEFGH';

/** A worker of this process's cluster that keeps what it is sent. */
class FakeWorker extends EventEmitter {
  readonly sent: Array<{ message: { type: string; data: Buffer }; socket: Socket; done: (error: null) => void }> = [];
  readonly send = (message: never, socket: Socket, done: (error: null) => void): boolean => {
    this.sent.push({ message, socket, done });
    if (this.prompt) {
      done(null);
    }
    return true;
  };
  prompt = true;
  handOver: HandOver | undefined;

  constructor(readonly id: number) {
    super();
  }

  get requests(): string[] {
    return this.sent.map(({ message }) => String(withoutOpening(message.data)));
  }
}

describe('corrections around sticky', () => {
  let listener: StickyListener;
  let port: number;
  let clients: Socket[];
  const workers = cluster.workers!;

  beforeEach(async () => {
    clients = [];
    listener = createStickyListener();
    listener.server.listen(0, '127.0.0.1');
    await once(listener.server, 'listening');
    port = (listener.server.address() as AddressInfo).port;
  });

  afterEach(() => {
    listener.server.close();
    for (const worker of Object.values(workers) as unknown as FakeWorker[]) {
      for (const { socket } of worker.sent) {
        socket.destroy();
      }
      delete workers[worker.id];
    }
    for (const client of clients) {
      client.destroy();
    }
    cluster.removeAllListeners('message').removeAllListeners('exit');
  });

  function worker(id: number): FakeWorker {
    const fake = new FakeWorker(id);
    workers[id] = fake as unknown as Worker;
    fake.handOver = listener.handOverTo(fake as unknown as Worker);
    fake.handOver.take('all');
    return fake;
  }

  async function say(text: string, localAddress = '127.0.0.1'): Promise<Socket> {
    const client = connect({ port, host: '127.0.0.1', localAddress });
    clients.push(client);
    client.on('error', () => {});
    await once(client, 'connect');
    client.write(text);
    return client;
  }

  const sentTo = (...fakes: FakeWorker[]): number => fakes.reduce((sum, { sent }) => sum + sent.length, 0);

  it('1: hand over requests with bodies, whatever words stand in their head', async () => {
    const only = worker(1);
    const requests = [
      'POST /api/tasks HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12',
      'GET /api/tasks/job/1?note=Content-Length:5 HTTP/1.1\r\nHost: a\r\n\r\n',
      'POST /transfer-encoding: HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n',
    ];
    for (const [index, request] of requests.entries()) {
      await say(request);
      await eventually(() => expect(only.sent).to.have.length(index + 1));
    }
    expect(only.requests).to.deep.equal(requests);
    expect(only.sent.map(({ message }) => message.type)).to.deep.equal(Array(3).fill('sticky:connection'));
  });

  it('1: an opening is taken off again, whatever follows it', () => {
    for (const bytes of ['', 'GET / HTTP/1.1\r\n\r\n', '\r\n\r\n\r\n', `sid=${SESSION}\r\n\r\n`]) {
      expect(String(withoutOpening(withOpening(Buffer.from(bytes), undefined)))).to.equal(bytes);
      expect(String(withoutOpening(withOpening(Buffer.from(bytes), SESSION)))).to.equal(bytes);
    }
  });

  it('1: a session is named by the target of a request only as a whole parameter', () => {
    expect(sessionOf(`GET /socket.io/?EIO=4&sid=${SESSION} HTTP/1.1`)).to.equal(SESSION);
    expect(sessionOf(`GET /socket.io/?sid=${SESSION}&EIO=4 HTTP/1.1`)).to.equal(SESSION);
    expect(sessionOf(`GET /socket.io/?sid=${SESSION}x HTTP/1.1`)).to.equal(undefined);
    expect(sessionOf(`GET /socket.io/?note_sid=${SESSION} HTTP/1.1`)).to.equal(undefined);
    expect(sessionOf('GET /socket.io/?EIO=4 HTTP/1.1')).to.equal(undefined);
  });

  for (const [what, bytes] of [
    ['a request line that ends with a line feed alone', 'GET / HTTP/1.1\nHost: a\n\n'],
    ['the beginning of TLS', '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03'],
    ['small letters', 'hello'],
    ['a carriage return alone', 'GET / HTTP/1.1\rHost'],
    ['a byte that no line has', 'GET /\x00'],
  ] as const) {
    it(`1: what is no request line is left to a worker at once: ${what}`, async () => {
      const only = worker(1);
      const client = await say('');
      client.write(bytes, 'latin1');
      await eventually(() => expect(sentTo(only)).to.equal(1));
      expect(withoutOpening(only.sent[0]!.message.data).toString('latin1')).to.equal(bytes);
    });
  }

  it('1: a request line is waited for, in however many pieces it comes', async () => {
    const only = worker(1);
    const client = await say('');
    client.setNoDelay();
    for (const piece of ['G', 'ET /caf', '\xe9?a=~ HTTP/1.1', '\r']) {
      client.write(piece, 'latin1');
      for (let turns = 0; turns < 50; turns += 1) {
        await turn();
      }
      expect(sentTo(only)).to.equal(0);
    }
    client.write('\n');
    await eventually(() => expect(only.requests.join('')).to.match(/^GET .* HTTP\/1\.1\r\n$/));
  });

  it('1: requests of a session go to its worker, which need not be the least busy one', async () => {
    const [first, second] = [worker(1), worker(2)];
    cluster.emit('message', second as never, { type: 'sticky:connection', data: SESSION }, undefined as never);
    for (let count = 1; count <= 3; count += 1) {
      await say(`GET /socket.io/?EIO=4&sid=${SESSION} HTTP/1.1\r\n\r\n`);
      await eventually(() => expect(second.sent).to.have.length(count));
    }
    expect(first.sent).to.have.length(0);
  });

  it('2: what a client says after its first bytes is left for the worker', async () => {
    const only = worker(1);
    const client = await say('GET /a HTTP/1.1\r\n');
    await eventually(() => expect(only.sent).to.have.length(1));
    const { socket } = only.sent[0]!;
    const read = socket.bytesRead;
    client.write('X-Late: yes\r\n\r\n');
    // The other end has it when a connection that came later has been read.
    await say('GET /b HTTP/1.1\r\n\r\n');
    await eventually(() => expect(only.sent).to.have.length(2));
    expect(socket.bytesRead).to.equal(read);
  });

  it('3: connections count from their hand-over until they are closed', async () => {
    const fakes = [worker(1), worker(2), worker(3)] as const;
    await Promise.all(Array.from({ length: 60 }, () => say('GET / HTTP/1.1\r\n\r\n')));
    await eventually(() => expect(sentTo(...fakes)).to.equal(60));
    expect(fakes.map(({ sent }) => sent.length)).to.deep.equal([20, 20, 20]);
    fakes[1].handOver!.closed(6);
    await Promise.all(Array.from({ length: 6 }, () => say('GET / HTTP/1.1\r\n\r\n')));
    await eventually(() => expect(sentTo(...fakes)).to.equal(66));
    expect(fakes.map(({ sent }) => sent.length)).to.deep.equal([20, 26, 20]);
  });

  it('3: what workers report of sessions changes nothing in the balance', async () => {
    const [first, second] = [worker(1), worker(2)];
    cluster.emit('message', first as never, { type: 'sticky:connection', data: SESSION }, undefined as never);
    cluster.emit('message', second as never, { type: 'sticky:disconnection', data: SESSION }, undefined as never);
    expect([first, second].map(({ handOver }) => handOver!.count)).to.deep.equal([0, 0]);
    expect([first, second].map((fake) => (fake as unknown as { clientsCount: number }).clientsCount)).to.deep.equal([
      0, 0,
    ]);
  });

  it('3: a worker that starts or drains gets nothing new', async () => {
    const [first, second] = [worker(1), worker(2)];
    first.handOver!.take('sessions');
    await Promise.all(Array.from({ length: 10 }, () => say('GET / HTTP/1.1\r\n\r\n')));
    await eventually(() => expect(second.sent).to.have.length(10));
    expect(first.sent).to.have.length(0);
  });

  it('4: who waits for a worker waits by address, and addresses take turns', async function () {
    // Other systems have one address for this machine.
    if (process.platform !== 'linux') {
      this.skip();
    }
    const only = worker(1);
    only.prompt = false;
    for (let n = 0; n < 4; n += 1) {
      await say(`GET /greedy/${n} HTTP/1.1\r\n\r\n`);
      await eventually(() => expect(only.handOver!.count).to.equal(n + 1));
    }
    await say('GET /other HTTP/1.1\r\n\r\n', '127.0.0.2');
    await eventually(() => expect(only.handOver!.count).to.equal(5));
    for (let n = 0; n < 5; n += 1) {
      await eventually(() => expect(only.sent).to.have.length(n + 1));
      only.sent[n]!.done(null);
    }
    expect(only.requests.map((text) => text.split(' ')[1])).to.deep.equal([
      '/greedy/0',
      '/greedy/1',
      '/other',
      '/greedy/2',
      '/greedy/3',
    ]);
  });

  it('4: what waits for a worker that hangs goes to another one', async () => {
    const [hung, other] = [worker(1), worker(2)];
    hung.prompt = false;
    await Promise.all(Array.from({ length: 20 }, (_, index) => say(`GET /${index} HTTP/1.1\r\n\r\n`)));
    await eventually(() => expect(hung.handOver!.count + other.handOver!.count).to.equal(20));
    expect(hung.sent).to.have.length(1);
    hung.handOver!.take('nothing');
    // All of them: the one that Node.js keeps in its queue still has its handle.
    await eventually(() => expect(other.sent).to.have.length(20));
    expect(new Set(other.requests).size).to.equal(20);
    // That one counts until the worker says that it got it without a socket.
    expect(hung.handOver!.count).to.equal(1);
    hung.handOver!.closed(1);
    expect(hung.handOver!.count).to.equal(0);
  });

  it('4: requests of a session whose worker hangs are answered by another one', async () => {
    const [hung, other] = [worker(1), worker(2)];
    cluster.emit('message', hung as never, { type: 'sticky:connection', data: SESSION }, undefined as never);
    hung.handOver!.take('nothing');
    await say(`GET /socket.io/?sid=${SESSION} HTTP/1.1\r\n\r\n`);
    await eventually(() => expect(other.sent).to.have.length(1));
    expect(hung.sent).to.have.length(0);
  });

  it('4: what waits when the last worker is gone is answered, after its request', async () => {
    const only = worker(1);
    only.prompt = false;
    const client = await say('POST /api/tasks HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n12');
    await eventually(() => expect(only.sent).to.have.length(1));
    delete workers[1];
    only.emit('disconnect');
    let answer = '';
    client.setEncoding('latin1').on('data', (text) => {
      answer += text;
    });
    for (let turns = 0; turns < 50; turns += 1) {
      await turn();
    }
    expect(answer).to.equal('');
    client.write('34');
    await once(client, 'close');
    expect(answer)
      .to.match(/^HTTP\/1\.1 503 /)
      .and.include('SERVER_DRAINING');
  });

  it('4: nobody is answered by a listener without workers before the request has been read', async () => {
    const response = await fetch(`http://127.0.0.1:${port}/api/tasks`, { method: 'POST', body: 'x'.repeat(200_000) });
    const { status, message } = errorEntry('SERVER_DRAINING');
    expect(response.status).to.equal(status);
    expect(response.headers.get('retry-after')).to.equal('1');
    expect(response.headers.get('content-type')).to.match(/^application\/json/);
    expect(await response.json()).to.deep.equal({ error: { code: 'SERVER_DRAINING', message } });
  });

  it('4: an EventSource comes back: it is told so with status 200, and no other request is', async () => {
    const headers = { accept: 'text/event-stream', origin: 'https://app.example' };
    const stream = await fetch(`http://127.0.0.1:${port}/api/jobs/1/events`, { headers });
    expect(stream.status).to.equal(200);
    expect(stream.headers.get('content-type')).to.match(/^text\/event-stream/);
    expect(stream.headers.get('access-control-allow-origin')).to.equal('https://app.example');
    expect(await stream.text()).to.match(/^retry: \d{4}\ndata: \{"type":"ERROR".*"SERVER_DRAINING".*\}\n\n$/);
    const write = await fetch(`http://127.0.0.1:${port}/api/tasks`, { method: 'POST', headers, body: '{}' });
    expect(write.status).to.equal(503);
  });

  it('4: a page can read that answer, and its browser is not told that CORS forbids it', async () => {
    const headers = { origin: 'https://app.example', 'access-control-request-method': 'PUT' };
    const asked = await fetch(`http://127.0.0.1:${port}/api/tasks`, {
      method: 'OPTIONS',
      headers: { ...headers, 'access-control-request-headers': 'x-api-key' },
    });
    expect(asked.status).to.equal(204);
    expect(asked.headers.get('access-control-allow-headers')).to.equal('x-api-key');
    expect(asked.headers.get('access-control-allow-methods')).to.equal('PUT');
    const response = await fetch(`http://127.0.0.1:${port}/api/tasks`, { headers: { origin: 'https://app.example' } });
    expect(response.status).to.equal(503);
    expect(response.headers.get('access-control-allow-origin')).to.equal('https://app.example');
    expect(response.headers.get('access-control-allow-credentials')).to.equal('true');
    expect(response.headers.get('access-control-expose-headers')).to.equal('Retry-After');
  });

  it('5: the primary is told of a polling session before Engine.IO has its id, and of no other', async () => {
    const told: unknown[] = [];
    const { send, connected } = process;
    const engine = Object.assign(new EventEmitter(), { generateId: (_request: unknown) => SESSION });
    Object.assign(process, { connected: true, send: (message: unknown) => told.push(message) });
    try {
      serveHandedOver(new EventEmitter() as Server, engine, () => {});
      const id = await engine.generateId({ url: '/socket.io/?EIO=4&transport=polling' });
      expect(told).to.deep.equal([{ type: 'sticky:connection', data: id }]);
      await engine.generateId({ url: '/socket.io/?EIO=4&transport=websocket' });
      expect(told).to.have.length(1);
      const session = Object.assign(new EventEmitter(), { id });
      engine.emit('connection', session);
      session.emit('close');
      expect(told.slice(1)).to.deep.equal([{ type: 'sticky:disconnection', data: id }]);
    } finally {
      Object.assign(process, { send, connected });
      process.removeAllListeners('message');
    }
  });
});
