import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { expect } from 'chai';
import { io as connectClient } from 'socket.io-client';
import { WebSocket } from 'ws';
import { EngineWebsocket } from '../../src/gateways/engine-websocket.js';
import { SLOW_CLOSE_MS } from '../../src/gateways/metered-socket.js';
import { TaskwireError } from '../../src/protocol/errors.js';
import { NAMESPACE } from '../../src/protocol/paths.js';
import { eventually } from '../support/eventually.js';
import { clientFrame, HostileClient } from '../support/hostile-client.js';
import { LONG_NAMESPACE, MAX_MESSAGE_BYTES, SocketioGateway } from '../support/socketio-gateway.js';

const ENTER = `40${NAMESPACE},{"api_key":"k"}`;
const QUERY = 'EIO=4&transport=websocket';
interface Session {
  readonly readyState: string;
  sendPacket(type: 'ping'): void;
  on(event: string, listener: (...args: unknown[]) => void): void;
}

/** @param stock whether sessions go through Engine.IO, as they do when somebody else adds middleware */
async function startGateway(stock: boolean, options?: { readonly pingMs: number }): Promise<SocketioGateway> {
  const gateway = await SocketioGateway.start(options);
  if (stock) {
    gateway.io.engine.use((_request: unknown, _response: unknown, next: () => void) => next());
  }
  return gateway;
}

function open(gateway: SocketioGateway, query = QUERY): WebSocket {
  const socket = new WebSocket(`ws://127.0.0.1:${gateway.port}/socket.io/?${query}`);
  socket.on('error', () => {});
  return socket;
}

/** Ids are new in each session. */
const nameless = (text: string): string => text.replace(/"sid":"[\w-]{20}"/g, '"sid":"…"');

/** What a client sends, and all that it gets until it is closed. It leaves when the server has taken `asked` requests. */
async function talk(gateway: SocketioGateway, frames: ReadonlyArray<string | Buffer>, asked: number): Promise<unknown> {
  const client = open(gateway);
  const heard: string[] = [];
  client.on('message', (data, isBinary) => heard.push(isBinary ? `binary ${data}` : nameless(String(data))));
  const closed = once(client, 'close');
  await once(client, 'open');
  const before = gateway.asked.length;
  for (const frame of frames) {
    client.send(frame);
    if (frame === ENTER && !heard.some((text) => text.startsWith(`40${NAMESPACE}`))) {
      // What comes before the answer is not in the namespace.
      await eventually(() => expect(heard.some((text) => text.startsWith(`40${NAMESPACE}`))).to.equal(true));
    }
  }
  if (asked > 0) {
    await eventually(() => expect(gateway.asked.length - before).to.equal(asked));
    client.close(1000);
  }
  const [code, reason] = await closed;
  await eventually(() => expect(gateway.io.engine.clientsCount).to.equal(0));
  return { heard, code, reason: String(reason), asked: gateway.asked.slice(before) };
}

interface Refused {
  readonly status?: number | undefined;
  readonly body?: string;
  /** Of a WebSocket that was made nevertheless. */
  readonly code?: number;
  readonly heard?: readonly string[];
}

/** What becomes of an upgrade that does not begin a session: the answer to it, or how the WebSocket ends. */
async function refused(gateway: SocketioGateway, query: string): Promise<Refused> {
  const client = open(gateway, query);
  const heard: string[] = [];
  client.on('message', (data) => heard.push(String(data)));
  return new Promise((resolve, reject) => {
    client.on('close', (code) => resolve({ code, heard }));
    client.on('unexpected-response', (_request, response) => {
      text(response).then((body) => resolve({ status: response.statusCode, body }), reject);
    });
  });
}

const event = (type: string, data: unknown): string => `42${NAMESPACE},${JSON.stringify([type, data])}`;

describe('Engine.IO sessions over a WebSocket', () => {
  let ours: SocketioGateway;
  let stock: SocketioGateway;

  beforeEach(async () => {
    [ours, stock] = await Promise.all([startGateway(false), startGateway(true)]);
  });

  afterEach(() => Promise.all([ours.stop(), stock.stop()]));

  /** Each ends when the server closes it, or when so many requests were taken. */
  const TALKS: ReadonlyArray<readonly [title: string, frames: ReadonlyArray<string | Buffer>, asked: number]> = [
    ['messages', [ENTER, event('SUBSCRIBE', { room: 'job:1' }), event('PING', undefined)], 2],
    ['a pong that nobody asked for', ['3', ENTER, '3', event('A', 1)], 1],
    ['packets without a meaning', [ENTER, '0', '1', '5', '6', '6noop', event('A', 1)], 1],
    ['base64', [`b${Buffer.from('x').toString('base64')}`], 0],
    ['a binary event', [ENTER, `451-${NAMESPACE},["A",{"_placeholder":true,"num":0}]`, Buffer.from('bytes')], 1],
    [
      'a binary event whose bytes are base64',
      [ENTER, `451-${NAMESPACE},["A",{"_placeholder":true,"num":0}]`, 'bYQ=='],
      1,
    ],
    ['an attachment of nothing', [ENTER, Buffer.from('bytes')], 0],
    ['an attachment that is a text', [ENTER, `451-${NAMESPACE},["A",{"_placeholder":true,"num":0}]`, event('B', 1)], 0],
    ['a ping', [ENTER, '2'], 0],
    ['a probe', ['2probe'], 0],
    ['an unknown type', [ENTER, '7'], 0],
    ['a letter', ['x'], 0],
    ['an empty text', [''], 0],
    ['a message of nothing', [ENTER, '4'], 0],
    ['no packet of Socket.IO', [ENTER, '4{"no":"packet"}'], 0],
    ['an unknown packet of Socket.IO', [ENTER, '49'], 0],
    ['no JSON', [ENTER, `42${NAMESPACE},[no`], 0],
    ['another namespace', ['40/other,{}', ENTER, event('A', 1)], 1],
    ['the namespace twice', [ENTER, ENTER], 0],
    ['an event outside of the namespace', [event('A', 1)], 0],
    ['the end of the namespace', [ENTER, `41${NAMESPACE},`], 0],
    ['too long a message', [ENTER, event('A', 'x'.repeat(2 * MAX_MESSAGE_BYTES))], 0],
    ['a long message', [ENTER, event('A', 'x'.repeat(MAX_MESSAGE_BYTES - 100))], 1],
    ['an event whose name is a number', [ENTER, `42${NAMESPACE},[3,{}]`], 1],
    ['all Unicode', [ENTER, event('A', '\u{1F600} é \u2028')], 1],
  ];
  for (const [title, frames, asked] of TALKS) {
    it(`are answered as Engine.IO answers: ${title}`, async () => {
      expect(await talk(ours, frames, asked)).to.deep.equal(await talk(stock, frames, asked));
    });
  }

  for (const [title, query, reason] of [
    ['an unknown session', `${QUERY}&sid=AAAAAAAAAAAAAAAAAAAA`, /Session ID unknown/],
    ['a session that is a word of JavaScript', `${QUERY}&sid=constructor`, /Session ID unknown/],
    ['protocol 3', 'EIO=3&transport=websocket', /protocol 4/],
    ['no protocol', 'transport=websocket', /protocol 4/],
    ['two protocols', `${QUERY}&EIO=3`, /protocol 4/],
    ['no transport', 'EIO=4', /transport=websocket/],
    ['an unknown transport', 'EIO=4&transport=pigeon', /transport=websocket/],
    ['two transports', `${QUERY}&transport=polling`, /transport=websocket/],
    ['JSONP', `${QUERY}&j=0`, /JSONP/],
    ['nothing', '', /transport=websocket/],
  ] as const) {
    it(`are refused with a reason, in the form of all errors: ${title}`, async () => {
      for (const gateway of [ours, stock]) {
        const { status, body } = await refused(gateway, query);
        const { error } = JSON.parse(body ?? '');
        expect({ status, code: error.code }).to.deep.equal({ status: 400, code: 'INVALID_REQUEST' });
        expect(error.message).to.match(reason);
        expect(gateway.io.engine.clientsCount).to.equal(0);
      }
    });
  }

  it('are refused with the words of the door', async () => {
    for (const gateway of [ours, stock]) {
      gateway.refusal = new TaskwireError('RATE_LIMIT_EXCEEDED', { retryAfterMs: 1_500 });
    }
    const answer = await refused(ours, QUERY);
    expect(answer).to.deep.equal(await refused(stock, QUERY));
    expect(answer).to.deep.include({ status: 429 });
  });

  for (const query of ['EIO=4&transport=polling', 'EIO=4&transport=polling&xsid=1', 'EIO=4&transport=polling&sid=']) {
    it(`that begin by polling are refused by the door too: ?${query}`, async () => {
      ours.refusal = new TaskwireError('RATE_LIMIT_EXCEEDED', { retryAfterMs: 1_500 });
      const answer = await fetch(`${ours.url}/socket.io/?${query}`);
      expect([answer.status, answer.headers.get('retry-after')]).to.deep.equal([429, '2']);
    });
  }

  it('are ours, or those of Engine.IO when somebody else adds middleware', async () => {
    for (const [gateway, own] of [
      [ours, true],
      [stock, false],
    ] as const) {
      const connected = once(gateway.io.engine, 'connection');
      const client = open(gateway);
      expect((await connected)[0] instanceof EngineWebsocket).to.equal(own);
      client.terminate();
    }
  });

  it('cannot be taken over by another transport', async () => {
    const client = open(ours);
    const [hello] = await once(client, 'message');
    const { sid } = JSON.parse(String(hello).slice(1)) as { sid: string };
    const poll = await fetch(`http://127.0.0.1:${ours.port}/socket.io/?EIO=4&transport=polling&sid=${sid}`);
    expect(poll.status).to.equal(400);
    // Engine.IO would leave these without an answer.
    for (const method of ['GET', 'POST']) {
      const request = await fetch(`http://127.0.0.1:${ours.port}/socket.io/?${QUERY}&sid=${sid}`, { method });
      expect(request.status).to.equal(400);
      expect(await request.json()).to.deep.equal({ code: 3, message: 'Bad request' });
    }
    const other = open(ours, `${QUERY}&sid=${sid}`);
    await once(other, 'close');
    client.send(ENTER);
    await once(client, 'message');
    client.send(event('A', 1));
    await eventually(() => expect(ours.asked).to.deep.equal([['A', 1]]));
    expect(ours.io.engine.clientsCount).to.equal(1);
    client.terminate();
  });

  it('give Socket.IO the address and the query of their request', async () => {
    const handshakes: unknown[] = [];
    for (const gateway of [ours, stock]) {
      gateway.io.of(NAMESPACE).use(({ handshake: { address, url, query, secure, xdomain } }, next) => {
        handshakes.push({ address, url, query: { ...query }, secure, xdomain });
        next();
      });
      const client = open(gateway, `${QUERY}&a=1&a=%C3%A9+b&__proto__=x`);
      await once(client, 'open');
      client.send(ENTER);
      await eventually(() => expect(handshakes).to.have.length(gateway === ours ? 1 : 2));
      client.terminate();
    }
    expect(handshakes[0]).to.deep.equal(handshakes[1]);
    expect(handshakes[0]).to.deep.include({ address: '127.0.0.1', secure: false });
  });

  it('carry what a server of Socket.IO sends: texts, bytes, volatile ones, acknowledgements', async () => {
    for (const gateway of [ours, stock]) {
      const client = connectClient(`http://127.0.0.1:${gateway.port}${NAMESPACE}`, { transports: ['websocket'] });
      try {
        const heard: unknown[] = [];
        client.onAny((...args) => heard.push(args));
        client.on('question', (answer: (text: string) => void) => answer('yes'));
        await once(client as never, 'connect');
        const sockets = await gateway.io.of(NAMESPACE).fetchSockets();
        expect(sockets).to.have.length(1);
        const { 0: socket } = [...gateway.io.of(NAMESPACE).sockets.values()];
        gateway.io.of(NAMESPACE).emit('broadcast' as never, 1 as never);
        socket!.emit('bytes' as never, Buffer.from([1, 2]) as never);
        await eventually(() => expect(socket!.conn.transport.writable).to.equal(true));
        socket!.volatile.emit('volatile' as never);
        expect(await socket!.timeout(10_000).emitWithAck('question' as never)).to.equal('yes');
        expect(heard.slice(0, 3)).to.deep.equal([['broadcast', 1], ['bytes', Buffer.from([1, 2])], ['volatile']]);
        const gone = once(client as never, 'disconnect');
        socket!.disconnect(true);
        expect((await gone)[0]).to.equal('io server disconnect');
      } finally {
        client.close();
      }
    }
  });

  it('that ask for namespaces and read nothing are cut off', async () => {
    for (const gateway of [ours, stock]) {
      const client = open(gateway);
      await once(client, 'message');
      client.pause();
      const closed = once(client, 'close');
      // More than the system keeps for a connection, and what may wait beyond that.
      const timer = setInterval(() => {
        for (let n = 0; n < 10; n += 1) {
          client.send(`40${LONG_NAMESPACE},`);
        }
      }, 10);
      try {
        await eventually(() => expect(gateway.io.engine.clientsCount).to.equal(0), { timeoutMs: 30_000 });
      } finally {
        clearInterval(timer);
      }
      client.terminate();
      await closed;
    }
  }).timeout(60_000);

  for (const [title, frames] of [
    ['breaks the protocol', ['7']],
    ['is not in the namespace', [event('A', 1)]],
    ['leaves the namespace', [ENTER, `41${NAMESPACE},`]],
  ] as const) {
    it(`are cut off when their client ${title} and does not confirm the end`, async () => {
      await Promise.all(
        [ours, stock].map(async (gateway) => {
          const client = await HostileClient.upgrade(gateway.port, `/socket.io/?${QUERY}`);
          for (const frame of frames) {
            const expected = frame === frames[0] ? /"maxPayload"/ : /40\/api/;
            await eventually(() => expect(client.received).to.match(expected));
            client.write(clientFrame(frame));
          }
          const connections = (): Promise<number> =>
            new Promise((resolve) => gateway.http.getConnections((_error, count) => resolve(count)));
          // A client that reads slowly would have more time.
          await eventually(async () => expect(await connections()).to.equal(0), { timeoutMs: SLOW_CLOSE_MS / 2 });
          client.end();
        }),
      );
    }).timeout(SLOW_CLOSE_MS);
  }

  it('end when it is found out that their client has said goodbye and stays', async () => {
    for (const gateway of [ours, stock]) {
      const connected = once(gateway.io.engine, 'connection');
      const client = await HostileClient.upgrade(gateway.port, `/socket.io/?${QUERY}`);
      const [session] = (await connected) as [Session];
      // It does not see either that the server ends the connection, and so does not end it itself.
      client.stopReading();
      client.write(clientFrame('', 'close'));
      await eventually(() => {
        session.sendPacket('ping');
        expect(gateway.io.engine.clientsCount).to.equal(0);
      });
      client.end();
    }
  });

  it('end with their server', async () => {
    const client = open(ours);
    await once(client, 'message');
    const closed = once(client, 'close');
    ours.io.engine.close();
    await closed;
    expect(ours.io.engine.clientsCount).to.equal(0);
    // Nobody else begins meanwhile.
    expect(await refused(ours, QUERY)).to.deep.include({ status: 503 });
  });

  describe('are pinged', () => {
    const PING_MS = 200;
    let quick: SocketioGateway;

    beforeEach(async () => {
      quick = await startGateway(false, { pingMs: PING_MS });
    });

    afterEach(() => quick.stop());

    /** A client, and how often it was pinged. */
    async function pinged(): Promise<{ client: WebSocket; session: Session; pings(): number }> {
      const connected = once(quick.io.engine, 'connection');
      const client = open(quick);
      let pings = 0;
      client.on('message', (data) => {
        pings += String(data) === '2' ? 1 : 0;
      });
      const [session] = (await connected) as [Session];
      return { client, session, pings: () => pings };
    }

    it('again and again, in time for a stock client', async () => {
      const client = connectClient(`http://127.0.0.1:${quick.port}${NAMESPACE}`, { transports: ['websocket'] });
      try {
        let pings = 0;
        const gone: unknown[] = [];
        client.on('disconnect', (reason) => gone.push(reason));
        client.io.on('ping', () => {
          pings += 1;
        });
        await eventually(() => expect(pings).to.be.greaterThan(10));
        expect(gone).to.deep.equal([]);
      } finally {
        client.close();
      }
    });

    it('also while they send other things, which are no answer', async () => {
      const { client, session, pings } = await pinged();
      const timer = setInterval(() => client.send('6'), 20);
      try {
        const reasons: unknown[] = [];
        session.on('close', (reason) => reasons.push(reason));
        await once(client, 'close');
        expect(pings()).to.equal(1);
        expect(reasons).to.deep.equal(['ping timeout']);
      } finally {
        clearInterval(timer);
      }
    });

    it('and ended when they do not answer', async () => {
      const { client, session, pings } = await pinged();
      await once(client, 'close');
      expect(pings()).to.equal(1);
      expect(session.readyState).to.equal('closed');
      await eventually(() => expect(quick.io.engine.clientsCount).to.equal(0));
    });
  });
});
