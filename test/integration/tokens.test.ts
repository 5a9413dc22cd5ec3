import { once } from 'node:events';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect } from 'chai';
import { decodeJwt, exportJWK, generateKeyPair, SignJWT } from 'jose';
import type { Knex } from 'knex';
import { io, type Socket } from 'socket.io-client';
import WebSocket from 'ws';
import { connectDatabase } from '../../src/database/connect-database.js';
import { ApiKeyRepository } from '../../src/repository/api-key-repository.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import { eventually } from '../support/eventually.js';
import { PlainClient } from '../support/plain-client.js';
import { embeddedForTest, InProcessServer } from '../support/task-server.js';

// biome-ignore lint/suspicious/noExplicitAny: tests look into messages of every form
type Any = any;

const SECRET = 'a secret of tokens that only this test knows';

describe('tokens', function () {
  this.timeout(60_000);
  let database: Awaited<ReturnType<typeof embeddedForTest>>;
  let db: Knex;
  let server: InProcessServer;
  let keys: ApiKeyRepository;
  let ada: { key: string; record: { key_id: string } };
  let service: string;
  const opened: Array<{ close(): void }> = [];
  const others: InProcessServer[] = [];

  before(async () => {
    database = await embeddedForTest();
    db = connectDatabase({ url: database.url, pool: 2 });
    keys = new ApiKeyRepository(db);
    const jobs = new JobRepository(db);
    for (const [job_id, user_id] of [
      ['1', 'ada'],
      ['2', 'ada'],
      ['9', 'bob'],
    ] as const) {
      await jobs.create({ job_id, user_id });
    }
    service = (await keys.create({ owner: 'backend', role: 'service', rate_limit: 100_000 })).key;
    server = new InProcessServer(database.url, { TOKEN_SECRET: SECRET, AUTH_TIMEOUT_MS: '200' });
    await server.start();
  });
  beforeEach(async () => {
    ada = await keys.create({ owner: 'ada', rate_limit: 100_000 });
  });
  afterEach(async () => {
    for (const { close } of opened.splice(0)) {
      close();
    }
    await Promise.all(others.splice(0).map((other) => other.stop()));
  });
  after(async () => {
    await server?.stop();
    await db?.destroy();
    await database?.stop();
  });

  async function serverWith(environment: Record<string, string>): Promise<InProcessServer> {
    const other = new InProcessServer(database.url, environment);
    await other.start();
    others.push(other);
    return other;
  }

  async function rest(
    path: string,
    { method = 'GET', headers = {}, body }: { method?: string; headers?: Record<string, string>; body?: object } = {},
    { url }: { url: string } = server,
  ): Promise<{ status: number; body: Any }> {
    const response = await fetch(`${url}${path}`, {
      method,
      headers: { 'content-type': 'application/json', ...headers },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    return { status: response.status, body: await response.json() };
  }

  async function make(body: object, key = ada.key): Promise<string> {
    const made = await rest('/api/tokens', { method: 'POST', headers: { 'x-api-key': key }, body });
    expect(made.status, JSON.stringify(made.body)).to.equal(201);
    return made.body.token;
  }

  function plain(query = '', options: { headers?: Record<string, string>; protocols?: string[] } = {}): PlainClient {
    const client = new PlainClient(`${server.url}/api/ws/tasks${query}`, options.headers, options.protocols);
    opened.push({ close: () => client.socket.terminate() });
    return client;
  }

  function socketio(options: Record<string, unknown>): Socket {
    const socket = io(`${server.url}/api/ws/tasks`, {
      transports: ['websocket'],
      forceNew: true,
      reconnection: false,
      ...options,
    });
    opened.push({ close: () => socket.disconnect() });
    return socket;
  }

  async function ask(client: PlainClient, type: string, data?: unknown): Promise<Any> {
    const request_id = `${type} ${client.messages.length} ${Math.random()}`;
    if (client.socket.readyState === WebSocket.CONNECTING) {
      await once(client.socket, 'open');
    }
    client.send({ type, data, request_id });
    return client.answer(request_id);
  }

  /** When a token ends, in milliseconds since 1970. */
  const expiringAt = (token: string): number => decodeJwt(token).exp! * 1_000;

  /** Ways to bring a token over a plain WebSocket. */
  const ways: ReadonlyArray<[string, (token: string) => Promise<PlainClient>]> = [
    ['the query', async (token) => plain(`?token=${token}`)],
    ['Authorization: Bearer', async (token) => plain('', { headers: { authorization: `Bearer ${token}` } })],
    ['a subprotocol', async (token) => plain('', { protocols: ['taskwire', `taskwire.token.${token}`] })],
    [
      'a first message',
      async (token) => {
        const client = plain();
        expect(await ask(client, 'AUTH', { token })).to.have.nested.property('data.data.user', 'ada');
        return client;
      },
    ],
  ];

  describe('are made', () => {
    it('with what they show and when they end, for a quarter of an hour unless said', async () => {
      const { status, body } = await rest('/api/tokens', {
        method: 'POST',
        headers: { 'x-api-key': ada.key },
        body: { rooms: ['job:1', 'user:ada'] },
      });
      expect(status).to.equal(201);
      expect(body).to.include({ expires_in: 900 }).and.to.have.deep.property('rooms', ['job:1', 'user:ada']);
      expect(Date.parse(body.expires_at)).to.be.closeTo(Date.now() + 900_000, 5_000);
      expect(body.token.split('.')).to.have.length(3);
    });

    it('for no room that the key does not see, and by no token', async () => {
      const post = (body: object, headers: Record<string, string> = { 'x-api-key': ada.key }) =>
        rest('/api/tokens', { method: 'POST', headers, body });
      for (const [body, code] of [
        [{ rooms: ['job:1', 'job:9'] }, 'ACCESS_DENIED'],
        [{ rooms: ['job:404'] }, 'ACCESS_DENIED'],
        [{ user: 'bob' }, 'ACCESS_DENIED'],
        [{ user: 'nobody' }, 'ACCESS_DENIED'],
        [{ rooms: ['kitchen:1'] }, 'INVALID_ROOM'],
        [{ rooms: [] }, 'INVALID_REQUEST'],
        [{}, 'INVALID_REQUEST'],
        [{ rooms: ['job:1'], user: 'ada' }, 'INVALID_REQUEST'],
        [{ user: 'ada', expires_in: 0 }, 'INVALID_REQUEST'],
        [{ user: 'ada', expires_in: 86_401 }, 'INVALID_REQUEST'],
        [{ user: 'ada', expiresIn: 60 }, 'INVALID_REQUEST'],
      ] as const) {
        expect((await post(body)).body.error?.code, JSON.stringify(body)).to.equal(code);
      }
      const token = await make({ user: 'ada' });
      const { status, body } = await post({ user: 'ada' }, { authorization: `Bearer ${token}` });
      expect([status, body.error.code]).to.deep.equal([403, 'ACCESS_DENIED']);
    });

    it('not at all without a secret', async () => {
      const bare = await serverWith({});
      const answer = await rest(
        '/api/tokens',
        { method: 'POST', headers: { 'x-api-key': ada.key }, body: { user: 'ada' } },
        bare,
      );
      expect([answer.status, answer.body.error.code]).to.deep.equal([501, 'TOKENS_NOT_CONFIGURED']);
    });
  });

  describe('over a plain WebSocket', () => {
    for (const [way, open] of ways) {
      it(`are taken from ${way}, and show the rooms that they name and no other`, async () => {
        const client = await open(await make({ rooms: ['job:1'] }));
        expect((await ask(client, 'SUBSCRIBE', { room: 'job:1' })).type).to.equal('SUCCESS');
        for (const room of ['job:2', 'job:9', 'job:404', 'user:ada', 'user:bob']) {
          const refused = await ask(client, 'SUBSCRIBE', { room });
          expect([refused.type, refused.data.code], room).to.deep.equal(['ERROR', 'ACCESS_DENIED']);
        }
      });
    }

    it('of a user show all of that user', async () => {
      const client = plain(`?token=${await make({ user: 'ada' }, service)}`);
      for (const room of ['job:1', 'job:2', 'user:ada']) {
        expect((await ask(client, 'SUBSCRIBE', { room })).type, room).to.equal('SUCCESS');
      }
      for (const room of ['job:9', 'job:404', 'user:bob']) {
        expect((await ask(client, 'SUBSCRIBE', { room })).data.code, room).to.equal('ACCESS_DENIED');
      }
    });

    it('take the subprotocol without the secret in it', async () => {
      const token = await make({ rooms: ['job:1'] });
      const client = plain('', { protocols: [`taskwire.token.${token}`, 'taskwire'] });
      await once(client.socket, 'open');
      expect(client.socket.protocol).to.equal('taskwire');
      for (const offered of [
        [`taskwire.token.${token}`, 'mine'],
        [`Taskwire.Token.${token}`, 'mine'],
        [`token.${token}`, 'mine'],
        [token, 'mine'],
        [ada.key, 'mine'],
      ]) {
        const other = plain('', { protocols: offered });
        await once(other.socket, 'open');
        expect(other.socket.protocol, offered[0]).to.equal('mine');
      }
      const withKey = plain('', { protocols: ['taskwire', `taskwire.key.${ada.key}`] });
      expect((await ask(withKey, 'PING')).type).to.equal('PONG');
    });

    it('are used as often as needed until they end, and then close the connection with a code that says come back', async () => {
      const token = await make({ rooms: ['job:1'], expires_in: 2 });
      const clients = [plain(`?token=${token}`), plain(`?token=${token}`)];
      for (const client of clients) {
        expect((await ask(client, 'SUBSCRIBE', { room: 'job:1' })).type).to.equal('SUCCESS');
      }
      for (const client of clients) {
        expect(await client.ended()).to.deep.equal({ code: 4401, reason: 'TOKEN_EXPIRED' });
      }
      const late = plain(`?token=${token}`);
      expect(await late.ended()).to.deep.equal({ code: 4401, reason: 'TOKEN_EXPIRED' });
      expect(late.messages[0].data.code).to.equal('TOKEN_EXPIRED');
    });

    it('are refreshed on a living connection', async () => {
      const client = plain(`?token=${await make({ rooms: ['job:1'], expires_in: 2 })}`);
      await ask(client, 'SUBSCRIBE', { room: 'job:1' });
      const refused = await ask(client, 'AUTH', { token: await make({ rooms: ['job:2'] }) });
      expect([refused.type, refused.data.code], 'it would not show the room that it is in').to.deep.equal([
        'ERROR',
        'ACCESS_DENIED',
      ]);
      const token = await make({ rooms: ['job:1', 'job:2'] });
      // What is sent behind it in one go is handled with the new one.
      client.send({ type: 'AUTH', data: { token }, request_id: 'a' });
      client.send({ type: 'SUBSCRIBE', data: { room: 'job:2' }, request_id: 's' });
      expect(await client.answer('a')).to.have.nested.property('data.data.user', 'ada');
      expect((await client.answer('s')).type).to.equal('SUCCESS');
      await new Promise((resolve) => setTimeout(resolve, 2_500));
      const { data } = await ask(client, 'PING');
      expect(data.positions.map(({ room }: Any) => room)).to.have.members(['job:1', 'job:2']);
    });

    it('are refreshed by nothing that the door would not let in', async () => {
      const mute = await keys.create({ owner: 'bob', scopes: ['write'], rate_limit: 100_000 });
      const expiring = await make({ rooms: ['job:1'], expires_in: 1 });
      const disabled = await keys.create({ owner: 'ada' });
      await keys.disable(disabled.record.key_id);
      const client = plain(`?token=${await make({ user: 'ada' })}`);
      await ask(client, 'SUBSCRIBE', { room: 'job:1' });
      await eventually(async () => expect(Date.now()).to.be.greaterThan(expiringAt(expiring)));
      for (const [data, code] of [
        [{ api_key: mute.key }, 'ACCESS_DENIED'],
        [{ api_key: disabled.key }, 'INACTIVE_API_KEY'],
        [{ token: expiring }, 'TOKEN_EXPIRED'],
        [{ token: await make({ user: 'bob' }, service) }, 'ACCESS_DENIED'],
        [{ token: 'a.b.c' }, 'INVALID_TOKEN'],
        [{ token: ada.key }, 'INVALID_TOKEN'],
        [{ api_key: ada.key, token: await make({ user: 'ada' }) }, 'AUTHENTICATION_FAILED'],
      ] as const) {
        const { type, data: error } = await ask(client, 'AUTH', data);
        expect([type, error.code], JSON.stringify(data)).to.deep.equal(['ERROR', code]);
        // Nothing has changed.
        expect((await ask(client, 'SUBSCRIBE', { room: 'job:2' })).type).to.equal('SUCCESS');
        expect((await ask(client, 'SUBSCRIBE', { room: 'job:9' })).data.code).to.equal('ACCESS_DENIED');
      }
    });

    it('of another user take the place of the first one when no room is left that they do not show', async () => {
      const client = plain(`?token=${await make({ user: 'ada' })}`);
      await ask(client, 'SUBSCRIBE', { room: 'job:1' });
      await ask(client, 'UNSUBSCRIBE', { room: 'job:1' });
      const bob = await make({ rooms: ['job:9'] }, service);
      expect((await ask(client, 'AUTH', { token: bob })).type).to.equal('SUCCESS');
      expect((await ask(client, 'SUBSCRIBE', { room: 'job:1' })).data.code).to.equal('ACCESS_DENIED');
      expect((await ask(client, 'SUBSCRIBE', { room: 'job:9' })).type).to.equal('SUCCESS');
      // The key of the token before is no longer its own.
      const admin = (await keys.create({ owner: 'root', role: 'admin' })).key;
      await rest(`/api/keys/${ada.record.key_id}`, { method: 'DELETE', headers: { 'x-api-key': admin } });
      expect((await ask(client, 'PING')).type).to.equal('PONG');
    });

    it('may come after the connection, for a while, and nothing else before them', async () => {
      const silent = plain();
      expect(await silent.ended()).to.deep.equal({ code: 4501, reason: 'MISSING_API_KEY' });
      const hasty = plain();
      const answer = await ask(hasty, 'SUBSCRIBE', { room: 'job:1' });
      expect(answer.data.code).to.equal('MISSING_API_KEY');
      expect(answer.data.message).to.contain('"type":"AUTH"');
      expect((await hasty.ended()).code).to.equal(4501);
      const wrong = plain();
      expect((await ask(wrong, 'AUTH', { token: 'a.b.c' })).data.code).to.equal('INVALID_TOKEN');
      expect((await wrong.ended()).code).to.equal(4507);
      const byKey = plain();
      await once(byKey.socket, 'open');
      for (const message of [
        { type: 'AUTH', data: { api_key: ada.key }, request_id: 1 },
        { type: 'SUBSCRIBE', data: { room: 'job:1' }, request_id: 2 },
        { type: 'PING', request_id: 3 },
      ]) {
        byKey.send(message);
      }
      await eventually(() =>
        expect(
          byKey.messages.filter(({ request_id }) => request_id !== undefined).map(({ type }) => type),
        ).to.include.members(['SUCCESS', 'PONG']),
      );
      expect(byKey.messages[0]).to.include({ type: 'SUCCESS', request_id: 1 });
    });

    it('hold no more connections that say nothing than connections of an address may be', async () => {
      const narrow = await serverWith({ MAX_CONNECTIONS_PER_IP: '2', AUTH_TIMEOUT_MS: '30000' });
      const clients = [1, 2, 3].map(() => {
        const client = new PlainClient(`${narrow.url}/api/ws/tasks`);
        opened.push({ close: () => client.socket.terminate() });
        return client;
      });
      await eventually(() =>
        expect(clients.filter(({ closed }) => closed?.reason === 'RATE_LIMIT_EXCEEDED')).to.have.length(1),
      );
      clients.find(({ closed }) => closed === undefined)!.socket.terminate();
      await eventually(() => expect(Math.max(...narrow.broker.places())).to.equal(1));
    });
  });

  describe('over Socket.IO', () => {
    it('are taken from auth, and end and are refreshed as on the other wire', async () => {
      const socket = socketio({ auth: { token: await make({ rooms: ['job:1'], expires_in: 2 }) } });
      const messages: Any[] = [];
      socket.onAny((_type, message) => messages.push(message));
      await once(socket as Any, 'connect');
      expect(await socket.emitWithAck('SUBSCRIBE', { room: 'job:1' })).to.include({ room: 'job:1' });
      expect((await socket.emitWithAck('SUBSCRIBE', { room: 'job:2' })).error.code).to.equal('ACCESS_DENIED');
      const renewed = await socket.emitWithAck('AUTH', { token: await make({ rooms: ['job:1'], expires_in: 3 }) });
      expect(renewed).to.include({ user: 'ada' });
      const [reason] = (await once(socket as Any, 'disconnect')) as Any[];
      // With this reason a stock client comes back by itself, and asks its `auth` function for a new token.
      expect(reason).to.equal('transport close');
      expect(Date.now()).to.be.at.least(Date.parse(renewed.expires_at) - 50);
      expect(messages.at(-1).data.code).to.equal('TOKEN_EXPIRED');
    });

    it('are taken from a subprotocol, and not repeated', async () => {
      const token = await make({ rooms: ['job:1'] });
      for (const protocols of [
        [`taskwire.token.${token}`, 'taskwire'],
        ['taskwire', `taskwire.token.${token}`],
      ]) {
        const socket = socketio({ protocols });
        await once(socket as Any, 'connect');
        expect((socket.io.engine.transport as Any).ws.protocol).to.equal('taskwire');
        expect(await socket.emitWithAck('SUBSCRIBE', { room: 'job:1' })).to.include({ room: 'job:1' });
      }
    });

    for (const transports of [['websocket'], ['polling']]) {
      it(`are taken from query and header over ${transports[0]}`, async () => {
        const token = await make({ rooms: ['job:1'] });
        for (const options of [{ query: { token } }, { extraHeaders: { authorization: `Bearer ${token}` } }]) {
          const socket = socketio({ transports, ...options });
          await once(socket as Any, 'connect');
          expect(await socket.emitWithAck('SUBSCRIBE', { room: 'job:1' })).to.include({ room: 'job:1' });
        }
      });
    }
  });

  describe('over REST', () => {
    it('read what they name, and write nothing', async () => {
      const headers = { authorization: `Bearer ${await make({ rooms: ['job:1'] })}` };
      expect((await rest('/api/tasks/job/1', { headers })).status).to.equal(200);
      for (const path of ['/api/tasks/job/2', '/api/tasks/job/9', '/api/tasks/job/404', '/api/ws/stats?room=job:1']) {
        const local = path.startsWith('/api/ws') ? { ...headers, 'x-forwarded-for': '203.0.113.1' } : headers;
        expect((await rest(path, { headers: local })).body.error.code, path).to.equal('ACCESS_DENIED');
      }
      const written = await rest('/api/jobs', { method: 'POST', headers, body: {} });
      expect([written.status, written.body.error.code]).to.deep.equal([403, 'ACCESS_DENIED']);
    });

    it('are not taken from a query', async () => {
      const answer = await rest(`/api/tasks/job/1?token=${await make({ rooms: ['job:1'] })}`);
      expect([answer.status, answer.body.error.code]).to.deep.equal([401, 'MISSING_API_KEY']);
      expect(answer.body.error.message).to.contain('Authorization: Bearer');
    });
  });

  it('end with their key: connections are closed, and new ones refused', async () => {
    const token = await make({ user: 'ada' });
    const client = plain(`?token=${token}`);
    await ask(client, 'PING');
    const socket = socketio({ auth: { token } });
    await once(socket as Any, 'connect');
    const gone = once(socket as Any, 'disconnect');
    const admin = (await keys.create({ owner: 'root', role: 'admin' })).key;
    await rest(`/api/keys/${ada.record.key_id}`, { method: 'DELETE', headers: { 'x-api-key': admin } });
    expect(await client.ended()).to.deep.equal({ code: 4503, reason: 'INACTIVE_API_KEY' });
    expect((await gone)[0]).to.equal('io server disconnect');
    expect((await plain(`?token=${token}`).ended()).code).to.equal(4503);
    const answer = await rest('/api/tasks/job/1', { headers: { authorization: `Bearer ${token}` } });
    expect(answer.body.error.code).to.equal('INACTIVE_API_KEY');

    // A worker that has heard nothing of it finds it out by itself.
    const deaf = await serverWith({ TOKEN_SECRET: SECRET, API_KEY_CACHE_MS: '50' });
    const late = new PlainClient(`${deaf.url}/api/ws/tasks?token=${token}`);
    opened.push({ close: () => late.socket.terminate() });
    expect((await late.ended()).code).to.equal(4503);
    await eventually(async () => {
      const refused = await rest('/api/tasks/job/1', { headers: { authorization: `Bearer ${token}` } }, deaf);
      expect(refused.status).to.equal(401);
    });
  });

  it('of another secret, another algorithm or another audience are none', async () => {
    const sign = (secret: string, claims: object, header: object = {}, exp = '1h', aud = 'taskwire') => {
      const jwt = new SignJWT({ key: ada.record.key_id, owner: 'ada', limit: 100, sub: 'ada', jti: 'x', ...claims })
        .setProtectedHeader({ alg: 'HS256', ...header })
        .setIssuer('taskwire')
        .setAudience(aud);
      return (exp === '' ? jwt : jwt.setExpirationTime(exp)).sign(Buffer.from(secret));
    };
    const none = [
      { alg: 'none', typ: 'JWT' },
      {
        iss: 'taskwire',
        aud: 'taskwire',
        key: ada.record.key_id,
        owner: 'ada',
        limit: 9,
        sub: 'ada',
        exp: 2e9,
        jti: 'x',
      },
      '',
    ].map((part) => (part === '' ? '' : Buffer.from(JSON.stringify(part)).toString('base64url')));
    const good = await make({ user: 'ada' });
    for (const token of [
      await sign('another secret of at least 32 characters', {}),
      await sign(SECRET, {}, { alg: 'HS512' }),
      await sign(SECRET, {}, {}, '1h', 'mail'),
      await sign(SECRET, {}, {}, ''),
      await sign(SECRET, { sub: undefined }),
      await sign(SECRET, { rooms: 'job:1' }),
      await sign(SECRET, { rooms: ['kitchen:1'] }),
      `${none[0]}.${none[1]}.AA`,
      `${good.split('.').slice(0, 2).join('.')}.${'A'.repeat(43)}`,
      'x.y.z',
      `${'x'.repeat(9_000)}.y.z`,
    ]) {
      const answer = await rest('/api/tasks/job/1', { headers: { authorization: `Bearer ${token}` } });
      expect([answer.status, answer.body.error?.code], token.slice(0, 80)).to.deep.equal([401, 'INVALID_TOKEN']);
    }
    const both = await rest('/api/tasks/job/1', { headers: { authorization: `Bearer ${good}`, 'x-api-key': ada.key } });
    expect(both.body.error.code).to.equal('AUTHENTICATION_FAILED');
  });

  it('are still taken when the secret that signed them is the second one', async () => {
    const token = await make({ user: 'ada' });
    const rotated = await serverWith({ TOKEN_SECRET: `${'n'.repeat(32)},${SECRET}` });
    const headers = { authorization: `Bearer ${token}` };
    expect((await rest('/api/tasks/job/1', { headers }, rotated)).status).to.equal(200);
    const renewed = await rest(
      '/api/tokens',
      { method: 'POST', headers: { 'x-api-key': ada.key }, body: { user: 'ada' } },
      rotated,
    );
    const answer = await rest('/api/tasks/job/1', { headers: { authorization: `Bearer ${renewed.body.token}` } });
    expect(answer.body.error.code, 'the old worker does not know the new one yet').to.equal('INVALID_TOKEN');
  });

  it("of the application's own issuer are taken by its public keys", async () => {
    const { publicKey, privateKey } = await generateKeyPair('ES256');
    const stranger = await generateKeyPair('ES256');
    const jwk = { ...(await exportJWK(publicKey)), kid: 'k1', alg: 'ES256' };
    let up = true;
    const issuer = createServer((_request, response) => {
      response.writeHead(up ? 200 : 500, { 'content-type': 'application/json' }).end(JSON.stringify({ keys: [jwk] }));
    });
    issuer.listen(0, '127.0.0.1');
    await once(issuer, 'listening');
    opened.push({ close: () => issuer.close() });
    const environment = {
      TOKEN_JWKS_URL: `http://127.0.0.1:${(issuer.address() as AddressInfo).port}/keys`,
      TOKEN_ISSUER: 'https://app.example.com',
      TOKEN_AUDIENCE: 'tasks',
      TOKEN_SECRET: SECRET,
    };
    const app = await serverWith(environment);
    const sign = (claims: object, { key = privateKey, aud = 'tasks', exp = '1h' } = {}) =>
      new SignJWT({ ...claims })
        .setProtectedHeader({ alg: 'ES256', kid: 'k1' })
        .setIssuer('https://app.example.com')
        .setAudience(aud)
        .setExpirationTime(exp)
        .sign(key);
    const read = async (path: string, token: string, on = app) => {
      const { status, body } = await rest(path, { headers: { authorization: `Bearer ${token}` } }, on);
      return body.error?.code ?? status;
    };
    const all = await sign({ sub: 'ada' });
    expect(await read('/api/tasks/job/1', all)).to.equal(200);
    expect(await read('/api/tasks/job/9', all)).to.equal('ACCESS_DENIED');
    const one = await sign({ sub: 'ada', rooms: ['job:1', 'job:9'] });
    expect(await read('/api/tasks/job/1', one)).to.equal(200);
    expect(await read('/api/tasks/job/2', one)).to.equal('ACCESS_DENIED');
    expect(await read('/api/tasks/job/9', one), 'of another user').to.equal('ACCESS_DENIED');
    expect(await read('/api/tasks/job/1', await sign({ sub: 'ada' }, { key: stranger.privateKey }))).to.equal(
      'INVALID_TOKEN',
    );
    expect(await read('/api/tasks/job/1', await sign({ sub: 'ada' }, { aud: 'mail' }))).to.equal('INVALID_TOKEN');
    expect(await read('/api/tasks/job/1', await sign({}))).to.equal('INVALID_TOKEN');
    expect(await read('/api/tasks/job/1', await sign({ sub: 'ada' }, { exp: '-1h' }))).to.equal('TOKEN_EXPIRED');
    expect(await read('/api/tasks/job/1', await make({ user: 'ada' })), 'its own too').to.equal(200);
    expect(await read('/api/tasks/job/1', all, server), 'unknown where none is configured').to.equal('INVALID_TOKEN');

    up = false;
    const blind = await serverWith(environment);
    expect(await read('/api/tasks/job/1', all, blind)).to.equal('TOKEN_ISSUER_UNAVAILABLE');
    up = true;
    await eventually(async () => expect(await read('/api/tasks/job/1', all, blind)).to.equal(200));

    // The connection outlives looks at keys: no key of this service stands behind it.
    const client = new PlainClient(`${app.url}/api/ws/tasks?token=${all}`);
    opened.push({ close: () => client.socket.terminate() });
    expect((await ask(client, 'SUBSCRIBE', { room: 'job:1' })).type).to.equal('SUCCESS');
  });
});
