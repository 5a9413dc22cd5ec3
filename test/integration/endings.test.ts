import { once } from 'node:events';
import { expect } from 'chai';
import type { Knex } from 'knex';
import { io } from 'socket.io-client';
import { connectDatabase } from '../../src/database/connect-database.js';
import { ApiKeyRepository } from '../../src/repository/api-key-repository.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { EventStream } from '../support/event-stream.js';
import { eventually } from '../support/eventually.js';
import { PlainClient } from '../support/plain-client.js';
import { embeddedForTest, InProcessServer } from '../support/task-server.js';

// biome-ignore lint/suspicious/noExplicitAny: tests look into messages of every form
type Any = any;

const ROOM = 'job:1';

/** A connection that is in the room. */
interface Client {
  /** The code of the last ERROR, or of the close, once the connection has ended. */
  ended(): Promise<string>;
}

interface Credential {
  readonly api_key?: string;
  readonly token?: string;
}

describe('the end of a key or a token', function () {
  this.timeout(60_000);
  let database: Awaited<ReturnType<typeof embeddedForTest>>;
  let db: Knex;
  let server: InProcessServer;
  let keys: ApiKeyRepository;
  let admin: string;
  const opened: Array<{ close(): void }> = [];

  before(async () => {
    database = await embeddedForTest();
    db = connectDatabase({ url: database.url, pool: 2 });
    keys = new ApiKeyRepository(db);
    server = new InProcessServer(database.url, {
      TOKEN_SECRET: 's'.repeat(32),
      API_KEY_CACHE_MS: '200',
      MAX_SNAPSHOT_TASKS: '1',
    });
    await server.start();
    await new JobRepository(db).create({ job_id: '1', user_id: 'ada' });
    await new TaskRepository(db).createTaskData({ job_id: '1', task_definition_id: 1 });
    admin = (await keys.create({ owner: 'root', role: 'admin', rate_limit: 100_000 })).key;
  });
  afterEach(() => {
    for (const { close } of opened.splice(0)) {
      close();
    }
  });
  after(async () => {
    await server?.stop();
    await db?.destroy();
    await database?.stop();
  });

  async function rest(method: string, path: string, body?: object, key = admin): Promise<Any> {
    const response = await fetch(`${server.url}${path}`, {
      method,
      headers: { 'x-api-key': key, 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    return response.json();
  }

  const headersOf = ({ api_key, token }: Credential): Record<string, string> =>
    token === undefined ? { 'x-api-key': api_key! } : { authorization: `Bearer ${token}` };

  async function plain(credential: Credential): Promise<Client> {
    const client = new PlainClient(`${server.url}/api/ws/tasks`, headersOf(credential));
    opened.push({ close: () => client.socket.terminate() });
    await once(client.socket, 'open');
    client.send({ type: 'SUBSCRIBE', data: { room: ROOM }, request_id: 'in' });
    expect((await client.answer('in')).type).to.equal('SUCCESS');
    return { ended: async () => (await client.ended()).reason };
  }

  const socketio =
    (transport: 'websocket' | 'polling') =>
    async (credential: Credential): Promise<Client> => {
      const socket = io(`${server.url}/api/ws/tasks`, {
        auth: { ...credential },
        transports: [transport],
        forceNew: true,
        reconnection: false,
      });
      opened.push({ close: () => socket.disconnect() });
      let last: string | undefined;
      socket.on('ERROR', ({ data }: Any) => {
        last = data.code;
      });
      await once(socket as Any, 'connect');
      expect(await socket.emitWithAck('SUBSCRIBE', { room: ROOM })).to.include({ room: ROOM });
      return {
        ended: () =>
          eventually(() => {
            expect(socket.connected).to.equal(false);
            return String(last);
          }),
      };
    };

  async function sse(credential: Credential): Promise<Client> {
    const stream = new EventStream(`${server.url}/api/jobs/1/events`, { headers: headersOf(credential) });
    opened.push({ close: () => stream.close() });
    await stream.live();
    return {
      ended: async () => {
        await stream.ended();
        return stream.messages.at(-1).data.code;
      },
    };
  }

  async function ndjson(credential: Credential): Promise<Client> {
    const abort = new AbortController();
    opened.push({ close: () => abort.abort() });
    const response = await fetch(`${server.url}/api/jobs/1/events`, {
      headers: { ...headersOf(credential), accept: 'application/x-ndjson' },
      signal: abort.signal,
    });
    let text = '';
    const all = (async () => {
      for await (const chunk of response.body!) {
        text += Buffer.from(chunk).toString();
      }
    })();
    await eventually(() => expect(text).to.include('"SUCCESS"'));
    return {
      ended: async () => {
        await all;
        return JSON.parse(text.trim().split('\n').at(-1)!).data.code;
      },
    };
  }

  const WIRES: Readonly<Record<string, (credential: Credential) => Promise<Client>>> = {
    'plain WebSocket': plain,
    'Socket.IO': socketio('websocket'),
    'Socket.IO polling': socketio('polling'),
    'Server-Sent Events': sse,
    NDJSON: ndjson,
  };

  /** What ends a key, and with it its tokens. */
  const ENDINGS: Readonly<Record<string, (keyId: string, owner: string) => Promise<unknown>>> = {
    'is disabled': (keyId) => rest('DELETE', `/api/keys/${keyId}`),
    'is set inactive': (keyId) => rest('PUT', `/api/keys/${keyId}`, { active: false }),
    'is disabled with all of its owner': (_keyId, owner) => rest('DELETE', `/api/keys?owner=${owner}`),
    'is replaced without overlap': (keyId) => rest('POST', `/api/keys/${keyId}/rotate`, { overlap_seconds: 0 }),
    'is replaced, and the overlap ends': (keyId) => rest('POST', `/api/keys/${keyId}/rotate`, { overlap_seconds: 1 }),
    'comes to its time': (keyId) =>
      db.raw("UPDATE api_keys SET expires_at = now() + interval '0.3 s' WHERE key_id = ?", [keyId]),
  };

  for (const [title, end] of Object.entries(ENDINGS)) {
    it(`a key ${title}: its connections and those of its tokens are closed on every wire, and no new ones taken`, async () => {
      const { key, record } = await keys.create({ owner: 'ada', rate_limit: 100_000 });
      const { token } = await rest('POST', '/api/tokens', { rooms: [ROOM] }, key);
      const credentials: Credential[] = [{ api_key: key }, { token }];
      const clients = await Promise.all(
        Object.entries(WIRES).flatMap(([wire, connect]) =>
          credentials.map(
            async (credential) => [`${wire}, ${Object.keys(credential)[0]}`, await connect(credential)] as const,
          ),
        ),
      );
      await end(record.key_id, 'ada');
      for (const [name, client] of clients) {
        expect(await client.ended(), name).to.equal('INACTIVE_API_KEY');
      }
      for (const credential of credentials) {
        await eventually(async () => {
          const response = await fetch(`${server.url}/api/jobs/1`, { headers: headersOf(credential) });
          expect(response.status).to.equal(401);
        });
        const late = new PlainClient(`${server.url}/api/ws/tasks`, headersOf(credential));
        opened.push({ close: () => late.socket.terminate() });
        expect((await late.ended()).reason).to.be.oneOf(['INACTIVE_API_KEY', 'INVALID_API_KEY']);
      }
    });
  }

  it('a token comes to its time: its connections are closed on every wire, and told to come back with a new one', async () => {
    const { key } = await keys.create({ owner: 'ada', rate_limit: 100_000 });
    const { token } = await rest('POST', '/api/tokens', { rooms: [ROOM], expires_in: 3 }, key);
    const clients = await Promise.all(
      Object.entries(WIRES).map(async ([wire, connect]) => [wire, await connect({ token })] as const),
    );
    for (const [wire, client] of clients) {
      expect(await client.ended(), wire).to.equal('TOKEN_EXPIRED');
    }
    const late = await fetch(`${server.url}/api/jobs/1`, { headers: headersOf({ token }) });
    expect(((await late.json()) as Any).error.code).to.equal('TOKEN_EXPIRED');
  });

  it('a token comes to its time while a snapshot is sent in parts: the parts end, and nothing is answered', async () => {
    const { key } = await keys.create({ owner: 'ada', rate_limit: 100_000 });
    await new JobRepository(db).create({ job_id: '2', user_id: 'ada' });
    const tasks = new TaskRepository(db);
    const item = { job_id: '2', task_definition_id: 1, is_imua: false };
    for (let batch = 0; batch < 12; batch += 1) {
      await tasks.createManyTaskData('ada', Array(500).fill(item));
    }
    // One task in each part: 6,000 of them take longer than the token lives. On a slow machine it may end before the first one.
    for (let seconds = 1, parts = false; !parts && seconds <= 16; seconds *= 2) {
      const { token } = await rest('POST', '/api/tokens', { rooms: ['job:2'], expires_in: seconds }, key);
      const client = new PlainClient(`${server.url}/api/ws/tasks`, headersOf({ token }));
      opened.push({ close: () => client.socket.terminate() });
      await once(client.socket, 'open');
      client.send({ type: 'SUBSCRIBE', data: { room: 'job:2', snapshot: { parts: true } }, request_id: 'in' });
      expect((await client.ended()).reason).to.equal('TOKEN_EXPIRED');
      expect(client.messages.some(({ request_id }) => request_id === 'in')).to.equal(false);
      parts = client.messages.some(({ type }) => type === 'SNAPSHOT_PART');
      expect(parts || seconds < 16).to.equal(true);
    }
  });
});
