import { once } from 'node:events';
import { connect as connectSocket } from 'node:net';
import { expect } from 'chai';
import type { Knex } from 'knex';
import { io, type Socket } from 'socket.io-client';
import WebSocket from 'ws';
import { connectDatabase } from '../../src/database/connect-database.js';
import { errorEntry } from '../../src/protocol/errors.js';
import { ApiKeyRepository } from '../../src/repository/api-key-repository.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import { PlainClient } from '../support/plain-client.js';
import { embeddedForTest, InProcessServer } from '../support/task-server.js';

// biome-ignore lint/suspicious/noExplicitAny: tests look into messages of every form
type Any = any;

/** A mistake, and the answer to it: a code, and what its message says. */
type Mistake<Input extends readonly unknown[]> = readonly [title: string, ...input: Input, code: string, says: string];

/** What people send, the same on both wires. */
const MESSAGES: ReadonlyArray<Mistake<[type: string, data: unknown]>> = [
  ['a type in the wrong case', 'subscribe', { room: 'job:1' }, 'INVALID_MESSAGE_TYPE', 'did you mean "SUBSCRIBE"?'],
  ['a misspelt type', 'SUBSRCIBE', { room: 'job:1' }, 'INVALID_MESSAGE_TYPE', 'did you mean "SUBSCRIBE"?'],
  [
    'a type of another protocol',
    'JOIN',
    { room: 'job:1' },
    'INVALID_MESSAGE_TYPE',
    'types are SUBSCRIBE, UNSUBSCRIBE, PING, AUTH',
  ],
  ['a type of the server', 'TASK_CREATED', {}, 'INVALID_MESSAGE_TYPE', 'is sent by the server only'],
  ['no data', 'SUBSCRIBE', undefined, 'INVALID_SUBSCRIPTION_DATA', 'send an object such as {"room":"job:123"}'],
  ['data null', 'SUBSCRIBE', null, 'INVALID_SUBSCRIPTION_DATA', 'send an object such as {"room":"job:123"}'],
  ['a bare name', 'SUBSCRIBE', 'job:1', 'INVALID_SUBSCRIPTION_DATA', 'send {"room":"job:123"}, not a bare name'],
  ['a bare list', 'SUBSCRIBE', ['job:1'], 'INVALID_SUBSCRIPTION_DATA', 'send the list as {"rooms":'],
  ['JSON in a string', 'SUBSCRIBE', '{"room":"job:1"}', 'INVALID_SUBSCRIPTION_DATA', 'send the object itself'],
  [
    'the whole message as data',
    'SUBSCRIBE',
    { type: 'SUBSCRIBE', data: { room: 'job:1' } },
    'INVALID_SUBSCRIPTION_DATA',
    '"type" is in the wrong place',
  ],
  ['an empty object', 'SUBSCRIBE', {}, 'INVALID_SUBSCRIPTION_DATA', 'Field "room" wants a name such as "job:123"'],
  ['a list as the room', 'SUBSCRIBE', { room: ['job:1'] }, 'INVALID_SUBSCRIPTION_DATA', 'send several as "rooms"'],
  ['a number as the room', 'SUBSCRIBE', { room: 123 }, 'INVALID_SUBSCRIPTION_DATA', 'a name such as "job:123"'],
  ['a room in the wrong case', 'SUBSCRIBE', { room: 'JOB:1' }, 'INVALID_ROOM', 'did you mean "job:1"?'],
  ['a room like a path', 'SUBSCRIBE', { room: 'jobs/1' }, 'INVALID_ROOM', 'did you mean "job:1"?'],
  ['a room with zeros in front', 'SUBSCRIBE', { room: 'job:01' }, 'INVALID_ROOM', 'did you mean "job:1"?'],
  ['a room with a space in it', 'SUBSCRIBE', { room: 'job: 1' }, 'INVALID_ROOM', 'did you mean "job:1"?'],
  [
    'an id for a room',
    'SUBSCRIBE',
    { room: '1' },
    'INVALID_ROOM',
    'is none of job:{job_id}, task:{task_id}, user:{user_id}',
  ],
  ['channel for room', 'SUBSCRIBE', { channel: 'job:1' }, 'INVALID_SUBSCRIPTION_DATA', 'did you mean "room"?'],
  ['a misspelt field', 'SUBSCRIBE', { room: 'job:1', sinse: 0 }, 'INVALID_SUBSCRIPTION_DATA', 'did you mean "since"?'],
  [
    'a field in camel case',
    'SUBSCRIBE',
    { room: 'job:1', jobId: '1' },
    'INVALID_SUBSCRIPTION_DATA',
    'did you mean "job_id"?',
  ],
  [
    'a field that nobody knows',
    'SUBSCRIBE',
    { room: 'job:1', filter: 'x' },
    'INVALID_SUBSCRIPTION_DATA',
    'known are room, since, epoch, snapshot',
  ],
  [
    'since beside rooms',
    'SUBSCRIBE',
    { rooms: ['job:1'], since: 4 },
    'INVALID_SUBSCRIPTION_DATA',
    'it belongs to each room of its own',
  ],
  [
    'room beside rooms',
    'SUBSCRIBE',
    { room: 'job:1', rooms: ['job:1'] },
    'INVALID_SUBSCRIPTION_DATA',
    'send "room" or "rooms", not both',
  ],
  ['rooms as a string', 'SUBSCRIBE', { rooms: 'job:1' }, 'INVALID_SUBSCRIPTION_DATA', 'a list with at least one room'],
  ['an empty list', 'SUBSCRIBE', { rooms: [] }, 'INVALID_SUBSCRIPTION_DATA', 'a list with at least one room'],
  [
    'a misspelt field in a list',
    'SUBSCRIBE',
    { rooms: [{ room: 'job:1', sinse: 1 }] },
    'INVALID_SUBSCRIPTION_DATA',
    'did you mean "since"?',
  ],
  [
    'a position as text',
    'SUBSCRIBE',
    { room: 'job:1', since: '42' },
    'INVALID_SUBSCRIPTION_DATA',
    'Field "since" wants an integer from 0',
  ],
  [
    'no position as null',
    'SUBSCRIBE',
    { room: 'job:1', since: null },
    'INVALID_SUBSCRIPTION_DATA',
    'leave it out when you have none',
  ],
  [
    'no position as -1',
    'SUBSCRIBE',
    { room: 'job:1', since: -1 },
    'INVALID_SUBSCRIPTION_DATA',
    'leave it out when you have none',
  ],
  [
    'a number as the epoch',
    'SUBSCRIBE',
    { room: 'job:1', since: 1, epoch: 3 },
    'INVALID_SUBSCRIPTION_DATA',
    'the "epoch" that came with your position',
  ],
  [
    'snapshot as text',
    'SUBSCRIBE',
    { room: 'job:1', snapshot: 'false' },
    'INVALID_SUBSCRIPTION_DATA',
    'true, false, or an object',
  ],
  [
    'a snapshot of no tasks',
    'SUBSCRIBE',
    { room: 'job:1', snapshot: { limit: 0 } },
    'INVALID_SUBSCRIPTION_DATA',
    'an integer from 1',
  ],
  [
    'a misspelt part of snapshot',
    'SUBSCRIBE',
    { room: 'job:1', snapshot: { part: true } },
    'INVALID_SUBSCRIPTION_DATA',
    'did you mean "parts"?',
  ],
  [
    'an id that is not that of the room',
    'SUBSCRIBE',
    { room: 'job:1', job_id: '2' },
    'INVALID_SUBSCRIPTION_DATA',
    'the same id as the room, "1"',
  ],
  [
    'leaving by a misspelt field',
    'UNSUBSCRIBE',
    { rom: 'job:1' },
    'INVALID_UNSUBSCRIPTION_DATA',
    'did you mean "room"?',
  ],
  ['leaving a bare name', 'UNSUBSCRIBE', 'job:1', 'INVALID_UNSUBSCRIPTION_DATA', 'not a bare name'],
  ['a PING with data', 'PING', { room: 'job:1' }, 'INVALID_MESSAGE', 'PING takes no data'],
  ['AUTH with apiKey', 'AUTH', { apiKey: 'tw_x' }, 'INVALID_MESSAGE', 'did you mean "api_key"?'],
  ['AUTH with nothing', 'AUTH', undefined, 'INVALID_MESSAGE', 'AUTH wants a token or an api_key'],
  ['AUTH with a number as the token', 'AUTH', { token: 42 }, 'INVALID_MESSAGE', 'Field "token" wants a string'],
  ['AUTH with an object as the key', 'AUTH', { api_key: { key: 'x' } }, 'INVALID_MESSAGE', '"api_key" wants a string'],
  ['AUTH with no token as null', 'AUTH', { token: null }, 'INVALID_MESSAGE', 'leave it out when you have none'],
  ['AUTH with no token as an empty text', 'AUTH', { token: '' }, 'INVALID_MESSAGE', 'leave it out when you have none'],
  ['AUTH with the token as the data', 'AUTH', 'aaaa.bbbb.cccc', 'INVALID_MESSAGE', 'AUTH wants a token or an api_key'],
  ['AUTH with access_token', 'AUTH', { access_token: 'a.b.c' }, 'INVALID_MESSAGE', 'did you mean "token"?'],
  ['AUTH with a key as the token', 'AUTH', { token: `tw_${'x'.repeat(43)}` }, 'INVALID_TOKEN', 'send it as api_key'],
];

/** What only the plain wire can carry. */
const TEXTS: ReadonlyArray<Mistake<[message: string | Buffer]>> = [
  ['no JSON', 'SUBSCRIBE job:1', 'INVALID_MESSAGE', 'send text such as {"type":"SUBSCRIBE"'],
  ['a list', '["SUBSCRIBE",{"room":"job:1"}]', 'INVALID_MESSAGE', 'is no JSON object'],
  ['a binary message', Buffer.from('{"type":"PING"}'), 'INVALID_MESSAGE', 'The message is binary'],
  ['no type', '{"data":{"room":"job:1"}}', 'INVALID_MESSAGE', 'The message has no "type"'],
  ['event for type', '{"event":"SUBSCRIBE","data":{"room":"job:1"}}', 'INVALID_MESSAGE', 'no "type", but "event"'],
  ['Type for type', '{"Type":"SUBSCRIBE"}', 'INVALID_MESSAGE', 'no "type", but "Type"'],
  ['a room beside the type', '{"type":"SUBSCRIBE","room":"job:1"}', 'INVALID_MESSAGE', 'put it into data'],
  ['payload for data', '{"type":"SUBSCRIBE","payload":{"room":"job:1"}}', 'INVALID_MESSAGE', 'did you mean "data"?'],
  ['id for request_id', '{"type":"PING","id":1}', 'INVALID_MESSAGE', 'did you mean "request_id"?'],
  ['an object as the request id', '{"type":"PING","request_id":{}}', 'INVALID_MESSAGE', '"request_id" wants a string'],
];

const KEY = `tw_${'x'.repeat(43)}`;
const TOKEN = 'aaaa.bbbb.cccc';

/** What people connect with: a query, headers, Socket.IO's `auth`. */
interface Opening {
  readonly query?: string;
  readonly headers?: Record<string, string>;
  readonly auth?: unknown;
}
const OPENINGS: ReadonlyArray<Mistake<[opening: Opening]>> = [
  ['a key in the query under another name', { query: `?apikey=${KEY}` }, 'MISSING_API_KEY', 'name it "api_key"'],
  ['a key in the query in camel case', { query: `?apiKey=${KEY}` }, 'MISSING_API_KEY', 'name it "api_key"'],
  ['a token in the query under another name', { query: '?access_token=a.b.c' }, 'MISSING_API_KEY', 'name it "token"'],
  ['a key as Basic', { headers: { authorization: 'Basic eDp5' } }, 'MISSING_API_KEY', 'the header X-Api-Key'],
  ['a key as Bearer', { headers: { authorization: `Bearer ${KEY}` } }, 'INVALID_TOKEN', 'in the header X-Api-Key'],
  [
    'a token as the key',
    { headers: { 'x-api-key': TOKEN } },
    'INVALID_API_KEY',
    'send it as token or as Authorization: Bearer',
  ],
  [
    'a key that was cut',
    { headers: { 'x-api-key': KEY.slice(0, -1) } },
    'INVALID_API_KEY',
    'Invalid or expired API key',
  ],
  [
    'a key and a token',
    { headers: { 'x-api-key': KEY, authorization: `Bearer ${TOKEN}` } },
    'AUTHENTICATION_FAILED',
    'not both',
  ],
];
/** What stands in Socket.IO's `auth`. */
const AUTHS: ReadonlyArray<Mistake<[opening: Opening]>> = [
  ['nothing', {}, 'MISSING_API_KEY', 'API key required'],
  ['apiKey', { auth: { apiKey: KEY } }, 'MISSING_API_KEY', 'name it "api_key"'],
  ['key', { auth: { key: KEY } }, 'MISSING_API_KEY', 'name it "api_key"'],
  ['a key as the token', { auth: { token: KEY } }, 'INVALID_TOKEN', 'send it as api_key'],
];

/** Requests over HTTP. */
interface Request {
  readonly method?: string;
  readonly path: string;
  readonly headers?: Record<string, string>;
  readonly body?: string;
  /** With a good key. */
  readonly keyed?: true;
}
const REQUESTS: ReadonlyArray<Mistake<[request: Request]>> = [
  ['a path that is nearly one', { path: '/api/task/1' }, 'NOT_FOUND', 'did you mean "/api/tasks/:id"?'],
  ['a path in another case', { path: '/api/JOBS' }, 'MISSING_API_KEY', 'API key required'],
  ['a method that there is not', { path: '/api/tasks', method: 'PATCH' }, 'METHOD_NOT_ALLOWED', 'Method not allowed'],
  ['a key in the query', { path: `/api/jobs?api_key=${KEY}` }, 'MISSING_API_KEY', 'send the header X-Api-Key'],
  ['a token in the query', { path: `/api/jobs?token=${TOKEN}` }, 'MISSING_API_KEY', 'Authorization: Bearer TOKEN'],
  ['a misspelt limit', { path: '/api/jobs?limt=5', keyed: true }, 'INVALID_REQUEST', 'did you mean "limit"?'],
  ['a misspelt since', { path: '/api/jobs/1/events?sinse=5', keyed: true }, 'INVALID_REQUEST', 'did you mean "since"?'],
  ['offset for after', { path: '/api/tasks/job/1?offset=5', keyed: true }, 'INVALID_REQUEST', 'known are limit, after'],
  [
    'a misspelt since of Server-Sent Events',
    { path: '/api/jobs/1/events?sinse=5', keyed: true, headers: { accept: 'text/event-stream' } },
    'INVALID_REQUEST',
    'did you mean "since"?',
  ],
  [
    'a misspelt snapshot of NDJSON',
    { path: '/api/jobs/1/events?snapshots=false', keyed: true, headers: { accept: 'application/x-ndjson' } },
    'INVALID_REQUEST',
    'did you mean "snapshot"?',
  ],
  [
    'a key in the query beside a good one',
    { path: `/api/jobs?api_key=${KEY}`, keyed: true },
    'INVALID_REQUEST',
    'send the header X-Api-Key',
  ],
  [
    'a field in camel case',
    { path: '/api/tasks', method: 'POST', keyed: true, body: '{"jobId":"1","task_definition_id":1}' },
    'INVALID_REQUEST',
    'did you mean "job_id"?',
  ],
  ['the path of the WebSockets', { path: '/api/ws/tasks' }, 'INVALID_REQUEST', 'Connect to this path with a WebSocket'],
  [
    'Socket.IO polling at the namespace',
    { path: '/api/ws/tasks/?EIO=4&transport=polling' },
    'INVALID_REQUEST',
    'leave the option "path" out',
  ],
  [
    'Socket.IO polling at another path',
    { path: '/ws/?EIO=4&transport=polling' },
    'NOT_FOUND',
    'leave the option "path" out',
  ],
];

describe('typical mistakes', function () {
  this.timeout(60_000);
  let database: Awaited<ReturnType<typeof embeddedForTest>>;
  let db: Knex;
  let server: InProcessServer;
  let key: string;
  const opened: Array<{ close(): void }> = [];

  before(async () => {
    database = await embeddedForTest();
    db = connectDatabase({ url: database.url, pool: 2 });
    await new JobRepository(db).create({ job_id: '1', user_id: 'ada' });
    key = (await new ApiKeyRepository(db).create({ owner: 'ada', rate_limit: 100_000 })).key;
    server = new InProcessServer(database.url, { TOKEN_SECRET: 's'.repeat(32), AUTH_TIMEOUT_MS: '100' });
    await server.start();
  });
  after(async () => {
    for (const { close } of opened) {
      close();
    }
    await server?.stop();
    await db?.destroy();
    await database?.stop();
  });

  function plain({ query = '', headers = {} }: Opening): PlainClient {
    const client = new PlainClient(`${server.url}/api/ws/tasks${query}`, headers);
    opened.push({ close: () => client.socket.terminate() });
    return client;
  }

  function socketio(namespace: string, options: Record<string, unknown>): Socket {
    const socket = io(`${server.url}${namespace}`, {
      transports: ['websocket'],
      forceNew: true,
      reconnection: false,
      ...options,
    });
    opened.push({ close: () => socket.disconnect() });
    return socket;
  }

  const expectAnswer = (error: Any, code: string, says: string): void => {
    expect(error?.code, JSON.stringify(error)).to.equal(code);
    expect(error.message).to.contain(says);
    // It is read in a terminal, and sent back to whoever sent it: short.
    expect(error.message.length).to.be.below(300);
  };

  it('are at least twenty-eight', () => {
    expect(MESSAGES.length).to.be.at.least(28);
  });

  describe('in messages', () => {
    let websocket: PlainClient;
    let socket: Socket;
    before(async () => {
      websocket = plain({ headers: { 'x-api-key': key } });
      await once(websocket.socket, 'open');
      socket = socketio('/api/ws/tasks', { auth: { api_key: key } });
      await once(socket as Any, 'connect');
    });
    after(async () => {
      // None of them has ended a connection or joined a room.
      expect(websocket.socket.readyState).to.equal(WebSocket.OPEN);
      expect(await socket.emitWithAck('PING')).to.deep.equal({ positions: [] });
    });

    for (const [index, [title, type, data, code, says]] of MESSAGES.entries()) {
      it(`${title}: ${code}`, async () => {
        websocket.send({ type, data, request_id: index });
        const { type: answered, data: error } = await websocket.answer(index as Any);
        expect(answered).to.equal('ERROR');
        expectAnswer(error, code, says);
        const acknowledged = await socket.emitWithAck(type, data);
        expect(acknowledged.error, 'the same over Socket.IO').to.deep.equal(error);
      });
    }

    for (const [title, message, code, says] of TEXTS) {
      it(`${title}, on the plain wire: ${code}`, async () => {
        const before = websocket.messages.length;
        websocket.send(message);
        const { type, data } = await websocket.find((found) => websocket.messages.indexOf(found) >= before);
        expect(type).to.equal('ERROR');
        expectAnswer(data, code, says);
      });
    }

    it('two arguments, over Socket.IO: INVALID_MESSAGE', async () => {
      const { error } = await socket.emitWithAck('SUBSCRIBE', { room: 'job:1' }, { since: 1 });
      expectAnswer(error, 'INVALID_MESSAGE', 'An event takes one argument');
    });

    it('one bad name among several: the others are joined and left, and the answer says that some failed', async () => {
      const rooms = ['job:1', 'JOB:1', 'job:404'];
      const joined = await socket.emitWithAck('SUBSCRIBE', { rooms });
      expect(joined.failed).to.equal(2);
      expect(joined.rooms.map((room: Any) => room.error?.code)).to.deep.equal([
        undefined,
        'INVALID_ROOM',
        'ACCESS_DENIED',
      ]);
      const same = { rooms: [{ room: 'job:1', since: 3, epoch: 'x', snapshot: false }, 'JOB:1', { room: 7 }] };
      const left = await socket.emitWithAck('UNSUBSCRIBE', same);
      expect(left.failed).to.equal(2);
      expect(left.rooms.map((room: Any) => room.error?.code ?? room)).to.deep.equal([
        'job:1',
        'INVALID_ROOM',
        'INVALID_UNSUBSCRIPTION_DATA',
      ]);
      websocket.send({ type: 'SUBSCRIBE', data: { rooms }, request_id: 'some' });
      const { type, data } = await websocket.answer('some');
      expect([type, data.message]).to.deep.equal([
        'SUCCESS',
        'Subscribed to 1 of 3 rooms; refused: JOB:1 (INVALID_ROOM) and 1 more',
      ]);
      websocket.send({ type: 'UNSUBSCRIBE', data: { rooms }, request_id: 'left' });
      expect((await websocket.answer('left')).data.message).to.equal(
        'Unsubscribed from 2 of 3 rooms; refused: JOB:1 (INVALID_ROOM)',
      );
    });

    it('ids that are numbers are read by their digits', async () => {
      const big = '9007199254740993';
      const other = '9007199254740992';
      await new JobRepository(db).create({ job_id: big, user_id: 'ada' });
      for (const [id, good] of [
        [big, true],
        [other, false],
        ['9.007199254740993e15', true],
      ] as const) {
        for (const data of [
          `{"room":"job:${big}","job_id":${id}}`,
          `{"rooms":[{"room":"job:${big}","job_id":${id}}]}`,
        ]) {
          const request_id = `${id} ${data.length}`;
          websocket.send(`{"type":"SUBSCRIBE","request_id":"${request_id}","data":${data}}`);
          const { type } = await websocket.answer(request_id);
          expect(type, data).to.equal(good ? 'SUCCESS' : 'ERROR');
        }
      }
      // A parser on the way has rounded it already: the room says which one is meant.
      expect(await socket.emitWithAck('SUBSCRIBE', { room: `job:${big}`, job_id: Number(big) })).to.include({
        room: `job:${big}`,
      });
      await socket.emitWithAck('UNSUBSCRIBE', { room: `job:${big}` });
    });
  });

  describe('when connecting', () => {
    for (const [title, opening, code, says] of OPENINGS) {
      it(`${title}: ${code}`, async () => {
        const client = plain(opening);
        await client.ended();
        expectAnswer(client.messages[0].data, code, says);
        const { query = '', headers } = opening;
        const socket = socketio('/api/ws/tasks', {
          query: Object.fromEntries(new URLSearchParams(query)),
          extraHeaders: headers,
        });
        const [error] = (await once(socket as Any, 'connect_error')) as Any[];
        expectAnswer(error.data, code, says);
        const response = await fetch(`${server.url}/api/jobs${query}`, { headers: headers ?? {} });
        const body = (await response.json()) as Any;
        // REST takes no key from a query, under whatever name.
        const header = query.includes('token') ? 'Authorization: Bearer TOKEN' : 'X-Api-Key';
        expectAnswer(body.error, code, query === '' ? says : `send the header ${header}`);
      });
    }

    for (const [title, { auth }, code, says] of AUTHS) {
      it(`auth with ${title}, over Socket.IO: ${code}`, async () => {
        const socket = socketio('/api/ws/tasks', { auth });
        const [error] = (await once(socket as Any, 'connect_error')) as Any[];
        expectAnswer(error.data, code, says);
      });
    }

    for (const namespace of ['', '/', '/tasks', '/api/ws']) {
      it(`the Socket.IO namespace "${namespace}": INVALID_REQUEST`, async () => {
        for (const transports of [['websocket'], ['polling']]) {
          const socket = socketio(namespace, { auth: { api_key: key }, transports });
          const [error] = (await once(socket as Any, 'connect_error')) as Any[];
          expectAnswer(error.data, 'INVALID_REQUEST', 'connect with io("http://host:port/api/ws/tasks")');
        }
      });
    }

    it('credentials as subprotocols of another form, and two of them: MISSING_API_KEY, AUTHENTICATION_FAILED', async () => {
      const jwt = `${'a'.repeat(30)}.${'b'.repeat(30)}.${'c'.repeat(43)}`;
      for (const [protocols, code, says] of [
        [['taskwire', jwt], 'MISSING_API_KEY', '"taskwire.token.TOKEN"'],
        [['taskwire', KEY], 'MISSING_API_KEY', '"taskwire.key.KEY"'],
        [['taskwire', 'taskwire.token.a.b.c', 'taskwire.token.d.e.f'], 'AUTHENTICATION_FAILED', 'Different tokens'],
        [['taskwire', `taskwire.key.${KEY}`, 'taskwire.token.d.e.f'], 'AUTHENTICATION_FAILED', 'not both'],
        [['taskwire', `taskwire.token.${KEY}`], 'INVALID_TOKEN', 'send it as api_key'],
      ] as const) {
        const client = new PlainClient(`${server.url}/api/ws/tasks`, {}, [...protocols]);
        opened.push({ close: () => client.socket.terminate() });
        await client.ended();
        expectAnswer(client.messages[0].data, code, says);
        expect(client.socket.protocol).to.equal('taskwire');
      }
    });

    it('the namespace for the path of Socket.IO: INVALID_REQUEST', async () => {
      const client = plain({ query: '?EIO=4&transport=websocket', headers: { 'x-api-key': key } });
      expect(await client.ended()).to.deep.equal({ code: 4506, reason: 'INVALID_REQUEST' });
      expectAnswer(client.messages[0].data, 'INVALID_REQUEST', 'leave the option "path" out');
    });

    it('another path for a WebSocket: NOT_FOUND', async () => {
      for (const path of ['/', '/ws', '/api/ws', '/api/ws/task']) {
        const socket = new WebSocket(`${server.url.replace('http', 'ws')}${path}`, { headers: { 'x-api-key': key } });
        const [, response] = (await once(socket, 'unexpected-response')) as Any[];
        let text = '';
        for await (const chunk of response) {
          text += chunk;
        }
        expect(response.statusCode).to.equal(404);
        expectAnswer(JSON.parse(text).error, 'NOT_FOUND', 'WebSockets are served at /api/ws/tasks');
      }
    });

    it('JSONP, which would pass over the check of the origin', async () => {
      const response = await fetch(`${server.url}/socket.io/?EIO=4&transport=polling&j=0`);
      expect(response.status).to.equal(403);
      expect(((await response.json()) as Any).message).to.contain('JSONP is switched off');
    });
  });

  describe('in requests', () => {
    for (const [title, { method = 'GET', path, headers = {}, body, keyed }, code, says] of REQUESTS) {
      it(`${title}: ${code}`, async () => {
        const response = await fetch(`${server.url}${path}`, {
          method,
          headers: {
            ...headers,
            ...(keyed === true ? { 'x-api-key': key } : {}),
            ...(body === undefined ? {} : { 'content-type': 'application/json' }),
          },
          ...(body === undefined ? {} : { body }),
        });
        expectAnswer(((await response.json()) as Any).error, code, says);
      });
    }

    for (const [title, text, code, says] of [
      ['a target that is no URL', 'GET http://[::/x HTTP/1.1', 'NOT_FOUND', 'Nothing is served'],
      ['an expectation', 'GET /api/ws/health HTTP/1.1\r\nExpect: 200-ok', 'INVALID_REQUEST', 'only 100-continue'],
    ] as const) {
      it(`${title}: ${code}`, async () => {
        const socket = connectSocket(Number(new URL(server.url).port), '127.0.0.1');
        socket.write(`${text}\r\nHost: a\r\nConnection: close\r\n\r\n`);
        const [head, body] = (await socket.setEncoding('latin1').toArray()).join('').split('\r\n\r\n');
        expect(head).to.match(new RegExp(`^HTTP/1\\.1 ${errorEntry(code).status} [\\s\\S]*X-Request-Id: `));
        expectAnswer(JSON.parse(body!).error, code, says);
      });
    }
  });
});
