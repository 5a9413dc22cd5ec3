import { once } from 'node:events';
import { expect } from 'chai';
import type { Knex } from 'knex';
import { io, type Socket } from 'socket.io-client';
import { OPERATIONS } from '../../src/contract/operations.js';
import { connectDatabase } from '../../src/database/connect-database.js';
import { CLIENT_MESSAGE_TYPES } from '../../src/protocol/messages.js';
import { ApiKeyRepository } from '../../src/repository/api-key-repository.js';
import { EventStream } from '../support/event-stream.js';
import { eventually } from '../support/eventually.js';
import { PlainClient } from '../support/plain-client.js';
import { Recorder } from '../support/recorder.js';
import { embeddedForTest, InProcessServer } from '../support/task-server.js';

// biome-ignore lint/suspicious/noExplicitAny: answers and messages of every form
type Any = any;

const EXECUTION = {
  task_performer_id: 4,
  execution_timestamp: '2024-01-01T01:00:00+01:00',
  execution_tx_hash: '0xabc',
  proof_of_task: 'proof',
  task_opx_cost: 0.5,
  converted_arguments: { any: ['json', null] },
  task_status: 'Running',
  task_error: null,
  tx_url: 'https://example.com/tx',
};
const ATTESTATION = {
  task_number: 12,
  task_attester_ids: [1, 2],
  tp_signature: '0x1',
  ta_signature: '0x2',
  task_submission_tx_hash: '0xdef',
  is_successful: true,
};

describe('traffic and the documents that describe it', function () {
  this.timeout(40_000);
  let database: Awaited<ReturnType<typeof embeddedForTest>>;
  let db: Knex;
  let server: InProcessServer;
  let recorder: Recorder;
  let ada: string;
  let service: string;
  let admin: string;
  const opened: Array<{ close(): void }> = [];

  before(async () => {
    database = await embeddedForTest();
    db = connectDatabase({ url: database.url, pool: 2 });
    const keys = new ApiKeyRepository(db);
    const made = async (owner: string, role: 'user' | 'service' | 'admin') =>
      (await keys.create({ owner, role, rate_limit: 100_000 })).key;
    [ada, service, admin] = [await made('ada', 'user'), await made('backend', 'service'), await made('root', 'admin')];
    server = new InProcessServer(database.url, {
      TOKEN_SECRET: 's'.repeat(32),
      STATS_ACCESS: 'key',
      RECONCILE_IDLE_MS: '50',
      POSITION_INTERVAL_MS: '200',
    });
    await server.start();
    const get = async (path: string): Promise<unknown> => (await fetch(`${server.url}${path}`)).json();
    recorder = new Recorder(await get('/api/openapi.json'), await get('/api/asyncapi.json'));
  });

  after(async () => {
    for (const client of opened) {
      client.close();
    }
    await server?.stop();
    await db?.destroy();
    await database?.stop();
  });

  afterEach(() => {
    expect(recorder.problems.splice(0)).to.deep.equal([]);
  });

  /** A request, recorded. */
  async function ask(method: string, path: string, key?: string, sent?: unknown, headers = {}): Promise<Any> {
    const response = await fetch(`${server.url}${path}`, {
      method,
      headers: {
        ...(key === undefined ? {} : { 'x-api-key': key }),
        ...(sent === undefined ? {} : { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(sent === undefined ? {} : { body: JSON.stringify(sent) }),
    });
    const text = await response.text();
    const contentType = response.headers.get('content-type') ?? '';
    const answer = contentType.startsWith('application/json') ? JSON.parse(text) : text;
    const { status } = response;
    recorder.exchange({ method, path, sent, status, contentType, headers: response.headers, answer });
    return { ...answer, status };
  }

  let task: number;

  it('agree on jobs and tasks', async () => {
    await ask('POST', '/api/jobs', service, { job_id: '1', user_id: 'ada' });
    await ask('POST', '/api/jobs', service, { job_id: 1, user_id: 'ada' });
    await ask('POST', '/api/jobs', service, { job_id: '1', user_id: 'eve' });
    await ask('POST', '/api/jobs', ada);
    await ask('POST', '/api/jobs', ada, {}, { 'idempotency-key': 'k' });
    ({ task_id: task } = await ask('POST', '/api/tasks', ada, { job_id: '1', task_definition_id: 7, is_imua: true }));
    await ask('POST', '/api/tasks', ada, [{ job_id: 1, task_definition_id: 8, idempotency_key: 'a' }]);
    const some = await ask('POST', '/api/tasks', ada, [{ job_id: '1', task_definition_id: 9 }, { job_id: 'x' }, 7]);
    expect(some.status).to.equal(207);
    await ask('PUT', `/api/tasks/execution/${task}`, ada, { ...EXECUTION, task_id: task });
    await ask('PUT', `/api/tasks/attestation/${task}`, ada, ATTESTATION);
    await ask('PUT', `/api/tasks/${task}/fee`, ada, { fee: 2.5, task_id: String(task) });
    await ask('PUT', `/api/tasks/${task}/status`, ada, { task_status: 'done', task_number: null });
    await ask('PUT', '/api/tasks', ada, [
      { task_id: task, kind: 'execution', ...EXECUTION },
      { task_id: task, kind: 'attestation', ...ATTESTATION },
      { task_id: task, kind: 'fee', fee: 3 },
      { task_id: task, kind: 'status', task_status: 'ended', task_number: 3, task_submission_tx_hash: '0x1' },
    ]);
    expect((await ask('PUT', '/api/tasks', ada, [{ task_id: task, kind: 'fee' }, {}])).status).to.equal(207);
    for (const path of ['/api/jobs', '/api/jobs?limit=1', '/api/jobs/1', `/api/tasks/${task}`]) {
      expect((await ask('GET', path, ada)).status, path).to.equal(200);
    }
    await ask('GET', '/api/jobs', admin);
    await ask('GET', '/api/jobs?user_id=ada', service);
    await ask('GET', '/api/tasks/job/1?limit=2&after=0', ada);
    await ask('GET', '/api/users/ada/tasks', ada);
    await ask(
      'DELETE',
      `/api/tasks/${(await ask('POST', '/api/tasks', ada, { job_id: '1', task_definition_id: 1 })).task_id}`,
      service,
    );
    for (const room of ['jobs/1', `tasks/${task}`, 'users/ada']) {
      await ask('GET', `/api/${room}/events?limit=3`, ada);
      await ask('GET', `/api/${room}/events?since=1&epoch=other&types=TASK_CREATED,TASK_DELETED`, ada);
      await ask('GET', `/api/${room}/events`, ada);
    }
  });

  it('agree on keys, tokens and the service', async () => {
    const made = await ask('POST', '/api/keys', admin, {
      owner: 'eve',
      role: 'user',
      rate_limit: 5,
      name: 'laptop',
      scopes: ['read'],
      expires_at: '2099-01-01T00:00:00Z',
    });
    await ask('GET', '/api/keys', admin);
    await ask('PUT', `/api/keys/${made.key_id}`, admin, { rate_limit: 6, active: true });
    await ask('POST', `/api/keys/${made.key_id}/rotate`, admin, { overlap_seconds: 1 });
    await ask('DELETE', `/api/keys/${made.key_id}`, admin);
    await ask('DELETE', '/api/keys?owner=eve', admin);
    const { token } = await ask('POST', '/api/tokens', ada, { rooms: ['job:1'], expires_in: 60 });
    await ask('POST', '/api/tokens', ada, { user: 'ada' });
    await ask('GET', '/api/jobs/1', undefined, undefined, { authorization: `Bearer ${token}` });
    for (const path of ['/api/ws/health', '/api/openapi.json', '/api/asyncapi.json', '/api/docs', '/api/ws/tasks']) {
      await ask('GET', path);
    }
    await ask('GET', '/api/ws/stats', service);
    await ask('GET', '/api/ws/stats?room=job:1', service);
    await ask('GET', '/metrics', service);
  });

  it('agree on refusals', async () => {
    const refused: Array<Parameters<typeof ask>> = [
      ['GET', '/api/tasks/1'],
      ['GET', '/api/tasks/1', 'wrong'],
      ['GET', '/api/tasks/x', ada],
      ['GET', '/api/tasks/404', ada],
      ['GET', '/api/tasks/404', service],
      ['GET', '/api/jobs?limit=0', ada],
      ['GET', '/api/keys', ada],
      ['POST', '/api/tasks', ada, { job_id: '1', task_definition_id: 'x' }],
      ['POST', '/api/tasks', ada, []],
      ['POST', '/api/tasks', ada, 'x', { 'content-type': 'text/plain' }],
      ['POST', '/api/tasks', ada, 'x'.repeat(3_000_000)],
      ['POST', '/api/tokens', ada, { rooms: ['job'] }],
      ['POST', '/api/tokens', ada, {}],
      ['GET', '/api/ws/stats', ada],
      ['GET', '/api/ws/stats?room=x', service],
      ['DELETE', '/api/keys', admin],
      ['DELETE', '/api/keys/missing', admin],
      ['DELETE', `/api/tasks/${task}`, ada],
      ['PATCH', '/api/jobs', ada],
      ['GET', '/api/nothing', ada],
    ];
    for (const request of refused) {
      const { status, error } = await ask(...request);
      expect(status, request.slice(0, 2).join(' ')).to.be.within(400, 499);
      expect(error.code).to.be.a('string');
    }
  });

  it('have been of every operation', () => {
    const missing = Object.values(OPERATIONS)
      .map(({ id }) => id)
      // An upgrade is the other document's.
      .filter((id) => !recorder.operations.has(id) && id !== 'connect');
    expect(missing).to.deep.equal([]);
  });

  /** Each type of an event once. */
  async function happen(): Promise<void> {
    const made = await ask('POST', '/api/tasks', ada, { job_id: '1', task_definition_id: 7 });
    await ask('PUT', `/api/tasks/execution/${made.task_id}`, ada, EXECUTION);
    await ask('PUT', `/api/tasks/attestation/${made.task_id}`, ada, ATTESTATION);
    await ask('PUT', `/api/tasks/${made.task_id}/fee`, ada, { fee: 1 });
    await ask('PUT', `/api/tasks/${made.task_id}/status`, ada, {
      task_status: 'done',
      task_number: 1,
      task_submission_tx_hash: '0x1',
    });
    await ask('DELETE', `/api/tasks/${made.task_id}`, service);
  }

  /** What a client may send, each answered well. */
  const requests = (): Array<[type: string, data?: unknown]> => [
    ['SUBSCRIBE', { room: 'job:1', job_id: 1 }],
    ['SUBSCRIBE', { room: `task:${task}`, snapshot: true, task_id: String(task) }],
    ['SUBSCRIBE', { room: 'user:ada', snapshot: { parts: true, limit: 1 } }],
    ['SUBSCRIBE', { room: 'job:1', snapshot: { parts: false, limit: 1 } }],
    ['SUBSCRIBE', { room: 'job:1', since: 1, epoch: 'another' }],
    ['SUBSCRIBE', { rooms: ['job:1', { room: 'user:ada', since: 2 }, 'job:999'] }],
    ['UNSUBSCRIBE', { room: `task:${task}` }],
    ['UNSUBSCRIBE', { rooms: ['job:1', 'job'] }],
    ['SUBSCRIBE', { room: 'job:1', snapshot: false }],
    ['PING'],
    ['PING', {}],
    ['AUTH', { api_key: ada }],
  ];
  const bad: ReadonlyArray<readonly [type: string, data: unknown]> = [
    ['SUBSCRIBE', { room: 'job:1', sinse: 4 }],
    ['SUBSCRIBE', { room: 'job:999' }],
    ['UNSUBSCRIBE', 'job:1'],
    ['PING', 7],
    ['AUTH', { token: 'wrong' }],
    ['SUBSCRIB', {}],
  ];

  /** Messages of the server that have not gone by on a wire. */
  const missing = (wire: string, ending: RegExp): string[] =>
    Object.keys(asyncapi().channels[wire].messages).filter(
      (name) => ending.test(name) && !recorder.messages.has(`${wire} ${name}`),
    );
  const asyncapi = (): Any => (recorder as Any).asyncapi;

  it('agree on a plain WebSocket, every message of it', async () => {
    const client = new PlainClient(`${server.url}/api/ws/tasks?api_key=${ada}`);
    opened.push(client.socket);
    client.socket.on('message', (bytes) => {
      const message = JSON.parse(String(bytes));
      recorder.message('plain', message.type, message);
    });
    await once(client.socket, 'open');
    for (const [index, [type, data]] of requests().entries()) {
      const message = { type, ...(data === undefined ? {} : { data }), request_id: `r${index}`, timestamp: 'now' };
      client.send(message);
      const answer = await client.answer(`r${index}`).catch(() => {
        throw new Error(`no answer to ${JSON.stringify(message)}`);
      });
      expect(answer.type, JSON.stringify(message)).to.be.oneOf(['SUCCESS', 'PONG']);
      recorder.message('plain', type, message);
    }
    await happen();
    await client.find(({ type }) => type === 'TASK_DELETED');
    for (const [index, [type, data]] of bad.entries()) {
      client.send({ type, data, request_id: index + 0.5 });
      await client.answer((index + 0.5) as Any);
    }
    await client.find(({ type }) => type === 'POSITION');
    expect(missing('plain', /./)).to.deep.equal([]);
  });

  it('agree on Socket.IO, every message and every acknowledgement of it', async () => {
    const socket: Socket = io(`${server.url}/api/ws/tasks`, {
      auth: { api_key: ada },
      transports: ['websocket'],
      reconnection: false,
      forceNew: true,
    });
    opened.push(socket);
    socket.onAny((event: string, message: unknown) => recorder.message('socketio', event, message));
    await once(socket as Any, 'connect');
    const emit = (type: string, data: unknown): Promise<Any> =>
      new Promise((resolve) => (data === undefined ? socket.emit(type, resolve) : socket.emit(type, data, resolve)));
    for (const [type, data] of requests()) {
      const answer = await emit(type, data);
      recorder.message('socketio', `${type}_ack`, answer);
      recorder.message('socketio', `${type}_data`, data ?? null);
    }
    for (const [type, data] of bad) {
      recorder.message('socketio', 'ERROR_ack', await emit(type, data));
    }
    socket.emit('PING');
    socket.emit('SUBSCRIBE', { room: 'job:1', snapshot: false });
    socket.emit('SUBSCRIBE', { room: 'job' });
    await happen();
    await eventually(() => expect(missing('socketio', /./)).to.deep.equal([]));
    expect(CLIENT_MESSAGE_TYPES.every((type) => recorder.messages.has(`socketio ${type}_ack`))).to.equal(true);
  });

  it('agree on streams over HTTP', async () => {
    const stream = new EventStream(`${server.url}/api/jobs/1/events`, { headers: { 'x-api-key': ada } });
    opened.push(stream);
    await stream.live();
    await happen();
    await stream.find(({ type }) => type === 'TASK_DELETED');
    const ndjson = await fetch(`${server.url}/api/jobs/1/events?since=0&limit=4`, {
      headers: { accept: 'application/x-ndjson', 'x-api-key': ada },
    });
    const lines = (await ndjson.text()).trim().split('\n');
    expect(lines.length).to.be.greaterThan(3);
    for (const message of [...stream.messages, ...lines.map((line) => JSON.parse(line))]) {
      recorder.message('plain', message.type, message);
    }
  });
});
