import cluster from 'node:cluster';
import { EventEmitter, once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer as createHttpServer, type IncomingMessage, ServerResponse } from 'node:http';
import { createRequire } from 'node:module';
import { type AddressInfo, connect, createServer, Server as NetServer, Socket } from 'node:net';
import { dirname, join } from 'node:path';
import { createAdapter, createShardedAdapter } from '@socket.io/redis-adapter';
import { expect } from 'chai';
import { Command, Redis } from 'ioredis';
import knex from 'knex';
import pg from 'pg';
import { Server } from 'socket.io';
import WebSocket, { WebSocketServer } from 'ws';
import { eventually } from '../support/eventually.js';

// biome-ignore lint/suspicious/noExplicitAny: the inside of libraries has no types
type Any = any;

const require = createRequire(import.meta.url);
const read = (path: string): string => readFileSync(new URL(`../../../${path}`, import.meta.url), 'utf8');

/** Libraries whose inside is used. package.json names their exact versions. */
const LIBRARIES = [
  '@electric-sql/pglite',
  '@socket.io/cluster-adapter',
  '@socket.io/redis-adapter',
  '@socket.io/sticky',
  'ioredis',
  'knex',
  'pg',
  'socket.io',
  'ws',
];

/** What is closed after each test. */
const closers: Array<() => unknown> = [];

async function listening<S extends NetServer>(server: S): Promise<number> {
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  closers.push(() => server.close());
  return (server.address() as AddressInfo).port;
}

function client(port: number): Socket {
  const socket = connect(port, '127.0.0.1');
  socket.on('error', () => {});
  closers.push(() => socket.destroy());
  return socket;
}

/** A WebSocket through Engine.IO, from both sides. */
async function engineConnection(): Promise<{ engine: Any; io: Server; upgradeResponse: Any }> {
  const http = createHttpServer();
  const io = new Server(http);
  let upgradeResponse: Any;
  io.engine.use((request: Any, response: Any, next: () => void) => {
    if (request.headers.upgrade !== undefined) {
      upgradeResponse = { isResponse: response instanceof ServerResponse, req: response.req };
    }
    next();
  });
  const port = await listening(http);
  closers.push(() => io.close());
  const connected = once(io.engine, 'connection');
  const socket = new WebSocket(`ws://127.0.0.1:${port}/socket.io/?EIO=4&transport=websocket`);
  closers.push(() => socket.terminate());
  socket.on('error', () => {});
  const [engine] = await connected;
  await once(socket, 'open');
  return { engine, io, upgradeResponse };
}

/** Guards by the name of the reach, which docs/architecture.md explains. */
const GUARDS: Readonly<Record<string, () => void | Promise<void>>> = {
  'Node.js: handle of a socket': async () => {
    const server = createServer();
    const port = await listening(server);
    const accepted = once(server, 'connection');
    const far = client(port);
    const [near] = (await accepted) as [Any];
    near.on('data', () => {});
    expect(near._handle).to.include.keys('reading');
    near._handle.readStop();
    far.write('a');
    // Somebody else is read meanwhile.
    const other = client(port);
    const [late] = (await once(server, 'connection')) as [Socket];
    other.write('b');
    await once(late, 'data');
    expect(near.bytesRead).to.equal(0);
    near._handle.readStart();
    await once(near, 'data');
    expect(near._handle.close).to.be.a('function');
  },
  'Node.js: Worker.send': () => {
    expect(Object.getOwnPropertyNames((cluster as Any).Worker.prototype)).to.include('send');
    expect((cluster as Any).Worker.prototype.send.length).to.equal(0);
  },
  'Node.js: listening of a server that does not listen': async () => {
    const http = createHttpServer({ headersTimeout: 50, connectionsCheckingInterval: 20 });
    http.emit('listening');
    closers.push(() => http.close());
    const net = createServer((socket) => http.emit('connection', socket));
    const far = client(await listening(net));
    far.write('GET / HTTP/1.1\r\n');
    const [answer] = (await once(far, 'data')) as [Buffer];
    expect(String(answer)).to.match(/^HTTP\/1\.1 408 /);
  },
  'Node.js: the HTTP parser reads past a pause': async () => {
    const http = createHttpServer(() => {});
    closers.push(() => http.close());
    let near: Socket | undefined;
    const net = createServer((socket) => {
      near = socket;
      socket.once('readable', () => {
        const bytes = socket.read() as Buffer;
        http.emit('connection', socket);
        socket.on('data', ignore);
        socket.off('data', ignore);
        socket.unshift(bytes);
      });
    });
    const far = client(await listening(net));
    const total = 64 * 1_024 * 1_024;
    far.write(`POST / HTTP/1.1\r\nHost: a\r\nContent-Length: ${total}\r\n\r\n`);
    far.write(Buffer.alloc(total));
    // It stops when all buffers on the way are full.
    let before = -1;
    await eventually(
      () => {
        const now = near?.bytesRead ?? 0;
        const still = now > 0 && now === before;
        before = now;
        expect(still).to.equal(true);
      },
      { intervalMs: 200 },
    );
    expect(near!.bytesRead).to.be.lessThan(8 * 1_024 * 1_024);
  },
  'Node.js: an HTTP server that is closed as a plain one': async () => {
    const http = createHttpServer((_request, response) => response.end('a'));
    const far = client(await listening(http));
    far.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
    await once(far, 'data');
    NetServer.prototype.close.call(http);
    expect(http.listening).to.equal(false);
    far.write('GET / HTTP/1.1\r\nHost: a\r\n\r\n');
    await once(far, 'data');
    far.destroy();
    await once(http, 'close');
  },
  'Node.js: a connection whose upgrade nobody takes': async () => {
    const http = createHttpServer((_request, response) => response.end('answered'));
    http.on('upgrade', (_request: IncomingMessage, socket: Socket) => {
      http.emit('connection', socket);
      socket.unshift('GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n');
    });
    const far = client(await listening(http));
    far.write('GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: a\r\n\r\n');
    const [answer] = (await once(far, 'data')) as [Buffer];
    expect(String(answer)).to.include('answered');
  },
  'Node.js: writeQueueSize of a handle': async () => {
    const server = createServer({ pauseOnConnect: true });
    const far = client(await listening(server));
    const accepted = once(server, 'connection');
    await once(far, 'connect');
    const [near] = (await accepted) as [Any];
    closers.push(() => near.destroy());
    expect(near._handle.writeQueueSize).to.equal(0);
    near.write(Buffer.alloc(64 * 1_024 * 1_024));
    expect(near._handle.writeQueueSize).to.be.greaterThan(1_024 * 1_024);
  },
  'sticky: clientsCount of a worker': () => {
    expect(stickySource()).to.include('worker.clientsCount').and.include('for (const id in cluster.workers)');
  },
  'sticky: what it reads of a connection': () => {
    expect(stickySource())
      .to.include('.subarray(0, chunk.indexOf(Buffer.from("\\r\\n\\r\\n")))')
      .and.include('/sid=([\\w\\-]{20})/')
      .and.include('socket.removeAllListeners("data")');
  },
  'sticky: its messages': () => {
    for (const type of ['sticky:connection', 'sticky:disconnection']) {
      expect(stickySource()).to.include(`case "${type}":`);
    }
  },
  'Engine.IO: transport, its ws and its socket': async () => {
    const { engine } = await engineConnection();
    expect(engine.transport.name).to.equal('websocket');
    expect(engine.transport.socket.readyState).to.equal(WebSocket.OPEN);
    expect(engine.transport.socket._socket).to.be.instanceOf(Socket);
    expect(engine.transport.socket.terminate).to.be.a('function');
  },
  'Engine.IO: writeBuffer, upgrading and readyState': async () => {
    const { engine } = await engineConnection();
    expect(engine.writeBuffer).to.be.an('array');
    expect(engine.upgrading).to.equal(false);
    expect(engine.readyState).to.equal('open');
  },
  'Engine.IO: packetCreate and packet': async () => {
    const { engine } = await engineConnection();
    const created: unknown[] = [];
    engine.on('packetCreate', ({ type, data }: Any) => created.push([type, data]));
    engine.write('4abc', { compress: false });
    expect(created).to.deep.equal([['message', '4abc']]);
    const written: unknown[] = [];
    engine.transport.socket._socket.write = (bytes: Buffer | string) => written.push(String(bytes)) > 0;
    engine.once('packetCreate', (packet: Any) => {
      packet.data = 'instead';
    });
    engine.write('4def', { compress: false });
    await eventually(() => expect(written.join('')).to.include('instead').and.not.include('def'));
    const packet = once(engine, 'packet');
    engine.transport.onData('3');
    expect((await packet)[0]).to.include({ type: 'pong' });
  },
  'Engine.IO: close(true) drops what waits': async () => {
    const { engine } = await engineConnection();
    const closed = once(engine, 'close');
    engine.write('4abc');
    engine.close(true);
    await closed;
    expect(engine.readyState).to.equal('closed');
  },
  'Engine.IO: its polling transport': async () => {
    const http = createHttpServer();
    const io = new Server(http);
    const port = await listening(http);
    closers.push(() => io.close());
    const connected = once(io.engine, 'connection');
    const address = `http://127.0.0.1:${port}/socket.io/?EIO=4&transport=polling`;
    const { sid } = JSON.parse((await (await fetch(address)).text()).slice(1)) as { sid: string };
    const { transport } = (await connected)[0] as Any;
    const packets: unknown[] = [];
    transport.onData = (payload: unknown) => packets.push(...transport.parser.decodePayload(payload));
    const requests: string[] = [];
    const take = transport.onRequest.bind(transport);
    transport.onRequest = (request: Any) => {
      requests.push(`${request.method} ${typeof request.res.writeHead}`);
      take(request);
    };
    await fetch(`${address}&sid=${sid}`, { method: 'POST', body: '3\x1e4abc' });
    expect(packets).to.deep.equal([{ type: 'pong' }, { type: 'message', data: 'abc' }]);
    const poll = fetch(`${address}&sid=${sid}`);
    await eventually(() => expect(transport.writable).to.equal(true));
    expect(requests).to.deep.equal(['POST function', 'GET function']);
    const { res } = transport;
    transport.writable = false;
    transport.req.cleanup();
    res.writeHead(429).end('no');
    expect((await poll).status).to.equal(429);
    for (const name of ['onPacket', 'onError', 'onClose']) {
      expect(transport[name], name).to.be.a('function');
    }
    expect(transport.readyState).to.equal('open');
  },
  'Engine.IO: handleUpgrade, ws and clients of its server': async () => {
    const { engine, io } = await engineConnection();
    const server = io.engine as Any;
    expect(server.handleUpgrade.length).to.equal(3);
    expect(server.ws).to.be.instanceOf(WebSocketServer);
    expect(server.middlewares).to.be.an('array').with.lengthOf(1);
    expect([server.clients[engine.id], server.clientsCount]).to.deep.equal([engine, 1]);
    expect(server.generateId()).to.match(/^[\w-]{20}$/);
    const source = readFileSync(require.resolve('engine.io').replace('engine.io.js', 'server.js'), 'utf8');
    // Replaced, it is called for each upgrade.
    expect(source).to.include('this.handleUpgrade(req, socket, head);').and.include('req._query.sid');
    expect(source).to.include('this.clients[engineRequest._query.sid].transport.onRequest(engineRequest);');
  },
  'Engine.IO: what it keeps of a handshake': async () => {
    const { engine, upgradeResponse } = await engineConnection();
    expect(engine.request.headers).to.be.an('object');
    expect(upgradeResponse.isResponse).to.equal(false);
    expect(upgradeResponse.req.headers).to.be.an('object');
  },
  'Socket.IO: handshake of a socket': async () => {
    const { io, engine } = await engineConnection();
    const connected = once(io, 'connection');
    engine.transport.onData('40');
    const [socket] = (await connected) as [Any];
    expect(Object.keys(socket)).to.include('handshake');
    expect(socket.conn).to.equal(engine);
  },
  'Socket.IO: a refusal is a packet that begins with 4': async () => {
    const { io, engine } = await engineConnection();
    io.use((_socket, next) => next(new Error('no')));
    const created = once(engine, 'packetCreate');
    engine.transport.onData('40');
    expect((await created)[0].data).to.match(/^44\{|^4\{/);
  },
  'ws: frames written past it': async () => {
    const http = createHttpServer();
    const sockets = new WebSocketServer({ server: http, perMessageDeflate: false });
    const port = await listening(http);
    const connected = once(sockets, 'connection') as Promise<[Any, IncomingMessage]>;
    const far = new WebSocket(`ws://127.0.0.1:${port}`);
    closers.push(() => far.terminate());
    const heard: string[] = [];
    far.on('message', (text) => heard.push(String(text)));
    const [near, request] = await connected;
    near.send('first');
    request.socket.write(Buffer.from([0x81, 6, ...Buffer.from('second')]));
    near.send('third');
    await eventually(() => expect(heard).to.deep.equal(['first', 'second', 'third']));
  },
  'ws: setSocket, and how it reads frames': async () => {
    expect((WebSocket as Any).prototype.setSocket.length).to.equal(3);
    const source = readFileSync(join(dirname(require.resolve('ws')), 'lib', 'receiver.js'), 'utf8');
    expect(source).to.include('const GET_INFO = 0;').and.include('const DEFER_EVENT = 6;');
    const { getInfo, startLoop } = (WebSocket as Any).Receiver.prototype;
    expect([typeof getInfo, typeof startLoop]).to.deep.equal(['function', 'function']);
    const http = createHttpServer();
    const sockets = new WebSocketServer({ server: http, perMessageDeflate: false });
    const port = await listening(http);
    const connected = once(sockets, 'connection') as Promise<[Any]>;
    const far = new WebSocket(`ws://127.0.0.1:${port}`);
    closers.push(() => far.terminate());
    const [near] = await connected;
    const receiver = near._receiver;
    let resume: (() => void) | undefined;
    receiver.getInfo = function (this: Any, done: unknown) {
      if (this._bufferedBytes >= 2 && resume === undefined) {
        this._state = 6;
        resume = () => {
          this._state = 0;
          this.startLoop(done);
        };
        return;
      }
      getInfo.call(this, done);
    };
    const heard: string[] = [];
    near.on('message', (text: Buffer) => heard.push(String(text)));
    await once(far, 'open');
    far.send('one');
    far.send('two');
    await eventually(() => expect(resume).to.not.equal(undefined));
    expect([heard, Array.isArray(receiver._buffers)]).to.deep.equal([[], true]);
    resume!();
    await eventually(() => expect(heard).to.deep.equal(['one', 'two']));
  },
  'ioredis: commandQueue': () => {
    expect((redis() as Any).commandQueue.length).to.equal(0);
  },
  'ioredis: sendCommand': () => {
    const one = redis();
    const sent: string[] = [];
    one.sendCommand = (command) => {
      sent.push(command.name);
      return undefined as Any;
    };
    void one.publish('a', 'b');
    void one.subscribe('a');
    expect(sent).to.deep.equal(['publish', 'subscribe']);
  },
  'ioredis: reject and promise of a command': () => {
    const command = new Command('get', ['a']) as Any;
    expect(command.reject).to.be.a('function');
    expect(command.promise).to.be.instanceOf(Promise);
    command.promise.catch(() => {});
    command.reject(new Error('no'));
  },
  'ioredis: stream': async () => {
    const server = createServer();
    const port = await listening(server);
    const one = redis(port);
    void one.connect().catch(() => {});
    await eventually(() => expect(one.stream).to.be.instanceOf(Socket));
  },
  'ioredis: dispatch and shiftCommand of its reply handler': () => {
    const { default: Handler } = require('ioredis/built/DataHandler.js') as Any;
    const called: string[] = [];
    const one = {
      redis: { condition: {}, commandQueue: { shift: () => undefined }, emit: (name: string) => called.push(name) },
      __proto__: Handler.prototype,
    } as Any;
    one.dispatch(() => called.push('handled'));
    one.returnReply(Buffer.from('x'));
    expect(called).to.deep.equal(['handled', 'error']);
    expect((redis() as Any).recoverFromFatalError).to.have.length(3);
  },
  'ioredis: select while it connects': () => {
    const source = readFileSync(require.resolve('ioredis/built/redis/event_handler.js'), 'utf8');
    expect(source).to.include('send: () => self.select(self.condition.select)');
  },
  "ioredis: duplicate of a cluster's node, and its SLOTS": () => {
    const source = readFileSync(require.resolve('ioredis/built/cluster/index.js'), 'utf8');
    expect(source)
      .to.include('duplicatedConnection = redis.duplicate(')
      .and.include('duplicatedConnection.cluster("SLOTS",');
  },
  'ioredis: connectToSentinel of its connector': () => {
    const one = new Redis({ sentinels: [{ host: '127.0.0.1', port: 1 }], name: 'a', lazyConnect: true });
    closers.push(() => one.disconnect());
    const { connector } = one as Any;
    const sentinel = connector.connectToSentinel({ host: '127.0.0.1', port: 1 }, { lazyConnect: true });
    closers.push(() => sentinel.disconnect());
    expect(sentinel).to.be.instanceOf(Redis);
  },
  'redis-adapter: what it calls of its clients': () => {
    const called = new Set<PropertyKey>();
    const fake = (): Any =>
      new Proxy(new EventEmitter(), {
        get(target: Any, name) {
          if (name in target) {
            return target[name];
          }
          if (['publish', 'subscribe', 'psubscribe'].includes(String(name))) {
            called.add(name);
            return () => undefined;
          }
          return undefined;
        },
      });
    const io = new Server();
    io.adapter(createAdapter(fake(), fake()) as Any);
    io.of('/a').emit('x');
    expect([...called].sort()).to.deep.equal(['psubscribe', 'publish', 'subscribe']);
  },
  'redis-adapter: what it calls of those of a cluster': async () => {
    const called = new Set<string>();
    const noting = (names: readonly string[], result?: () => unknown): Any =>
      Object.fromEntries(
        names.map((name) => [
          name,
          (...args: unknown[]) => {
            called.add(name === 'on' ? `on ${args[0]}` : name);
            return result?.();
          },
        ]),
      );
    const node = {
      send_command: async (name: string, args: string[]) => {
        called.add(`${name} ${args[0]}`);
        return [args[1], 0];
      },
    };
    const publisher = { isCluster: true, ...noting(['spublish'], async () => 0), nodes: () => [node] };
    const subscriber = noting(['on', 'ssubscribe', 'sunsubscribe']);
    const io = new Server();
    io.adapter(createShardedAdapter(publisher, subscriber, { subscriptionMode: 'static' }) as Any);
    io.of('/a').emit('x');
    expect(await io.of('/a').adapter.serverCount()).to.equal(0);
    expect([...called].sort()).to.deep.equal(['PUBSUB SHARDNUMSUB', 'on smessageBuffer', 'spublish', 'ssubscribe']);
  },
  'pg: stream of a connection': () => {
    expect((new pg.Client() as Any).connection.stream).to.be.instanceOf(Socket);
  },
  'pg: processID of a connection': () => {
    expect(new pg.Client()).to.have.property('processID', null);
  },
  'pg: connects the stream that it is given': async () => {
    const stream = new Socket();
    const connected = new Promise((resolve) => {
      stream.connect = ((...place: unknown[]) => resolve(place)) as Any;
    });
    const client = new pg.Client({ host: 'db.test', port: 5433, stream: () => stream });
    client.connect().catch(() => {});
    expect(await connected).to.deep.equal([5433, 'db.test']);
    stream.destroy();
  },
  'pg, knex: query with a callback': async () => {
    const seen: unknown[] = [];
    const connection = {
      query(config: Any, done: (error: null, result: unknown) => void) {
        seen.push(config.text, typeof done);
        done(null, { rows: [{ one: 1 }], command: 'SELECT' });
      },
    };
    const db = knex({ client: 'pg' });
    expect(await db.raw('SELECT 1').connection(connection)).to.have.property('rows');
    expect(seen).to.deep.equal(['SELECT 1', 'function']);
  },
  'knex: pool and connections of its client': () => {
    const db = knex({ client: 'pg', connection: {}, pool: { min: 0, max: 3 } });
    closers.push(() => db.destroy());
    for (const count of ['numUsed', 'numFree', 'numPendingCreates']) {
      expect(db.client.pool[count](), count).to.equal(0);
    }
    expect(db.client.pool.max).to.equal(3);
    for (const name of ['acquireConnection', 'acquireRawConnection', 'releaseConnection']) {
      expect(db.client[name], name).to.be.a('function');
    }
  },
  'knex: query of its client, and of that of a transaction': async () => {
    const seen: unknown[] = [];
    const connection = {
      query(config: Any, done: (error: Error | null, result?: unknown) => void) {
        seen.push(config);
        done(config.text === 'bad' ? new Error('no') : null, { rows: [{ one: 1 }], command: config.text });
      },
    };
    const db = knex({ client: 'pg' });
    const heard: unknown[] = [];
    db.on('query', ({ sql, bindings }: Any) => heard.push(sql, bindings));
    const statement = { sql: 'SELECT $1', bindings: [1], options: { name: 'a' } };
    const { response } = await db.client.query(connection, { ...statement });
    expect(response.rows).to.deep.equal([{ one: 1 }]);
    expect(seen).to.deep.equal([{ text: 'SELECT $1', values: [1], name: 'a' }]);
    expect(heard).to.deep.equal(['SELECT $1', [1]]);
    const refused = await db.client.query(connection, { sql: 'bad', bindings: [] }).catch((error: Error) => error);
    expect(refused.message).to.include('no');

    // One that has ended takes nothing more: its connection is somebody else's by then.
    const transaction = await db.transaction(undefined, { connection } as Any);
    const { client } = transaction as Any;
    expect(await client.acquireConnection()).to.equal(connection);
    await client.query(connection, { ...statement });
    await transaction.commit();
    const late = await client.query(connection, { ...statement }).catch((error: Error) => error);
    expect(late.message).to.include('already complete');
  },
  'pg, knex: texts of their errors': () => {
    const [driver, queries] = ['pg/lib/client.js', 'knex/lib/client.js'].map((name) =>
      readFileSync(require.resolve(name), 'utf8'),
    );
    expect(driver).to.include('Connection terminated').and.include('not queryable');
    expect(queries).to.include('Knex: Timeout acquiring');
  },
  'PGlite: NODEFS of its Emscripten module': () => {
    // That every file is private is seen in test/integration/embedded-database.test.ts.
    const source = readFileSync(join(dirname(require.resolve('@electric-sql/pglite')), 'pglite.js'), 'utf8');
    expect(source).to.include('setattr(node,attr){var path=NODEFS.realPath(node)');
    expect(source).to.include('mknod(parent,name,mode,dev){var node=NODEFS.createNode(');
  },
};

function redis(port = 1): Redis {
  const one = new Redis({ host: '127.0.0.1', port, lazyConnect: true, retryStrategy: () => null });
  one.on('error', () => {});
  closers.push(() => one.disconnect());
  return one;
}

const stickySource = (): string => readFileSync(require.resolve('@socket.io/sticky'), 'utf8');

function ignore(): void {}

describe('reaches into libraries', () => {
  afterEach(() => {
    for (const close of closers.splice(0).reverse()) {
      close();
    }
  });

  for (const [name, guard] of Object.entries(GUARDS)) {
    it(name, guard);
  }

  it('are the ones that docs/architecture.md lists', () => {
    const section = read('docs/architecture.md').split('\n## Reaches into libraries\n')[1]?.split('\n## ')[0] ?? '';
    const listed = [...section.matchAll(/^\| ([^|]+?) \| `/gm)].map(([, name]) => name);
    expect(listed).to.deep.equal(Object.keys(GUARDS));
  });

  it('go into libraries of exact versions', () => {
    const { dependencies } = JSON.parse(read('package.json')) as { dependencies: Record<string, string> };
    for (const name of LIBRARIES) {
      const { version } = JSON.parse(read(`node_modules/${name}/package.json`)) as { version: string };
      expect(dependencies[name], name).to.equal(version);
    }
  });
});
