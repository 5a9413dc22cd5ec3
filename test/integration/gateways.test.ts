import { once } from 'node:events';
import { connect as connectTcp } from 'node:net';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect } from 'chai';
import type { Knex } from 'knex';
import { io, type Socket } from 'socket.io-client';
import WebSocket from 'ws';
import { silentLogger } from '../../src/base/logger.js';
import { Publisher } from '../../src/broker/publisher.js';
import { connectDatabase } from '../../src/database/connect-database.js';
import { ApiKeyRepository } from '../../src/repository/api-key-repository.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import type { TaskWrite } from '../../src/repository/write-runner.js';
import { eventually } from '../support/eventually.js';
import { PlainClient } from '../support/plain-client.js';
import { RawClient } from '../support/raw-client.js';
import type { Wire } from '../support/subscriber.js';
import { embeddedForTest, InProcessServer } from '../support/task-server.js';
import { startTcpProxy } from '../support/tcp-proxy.js';

// biome-ignore lint/suspicious/noExplicitAny: tests look into messages of every form
type Any = any;

/** Tasks that are written at a time to fill the buffers of a connection that does not read. */
const FLOOD = 300;

/** The text of a server's frame. */
function textOf(frame: Buffer): string {
  const length = frame[1]!;
  return frame.toString('utf8', length < 126 ? 2 : length === 126 ? 4 : 10);
}

/** A WebSocket of either wire that can stop reading. */
class Reader {
  readonly seqs: number[] = [];
  closed: { code: number; reason: string } | undefined;
  private answer: Any;
  private readonly socket: WebSocket;
  private readonly opened: Promise<void>;

  constructor(
    private readonly wire: Wire,
    url: string,
    key: string,
  ) {
    const path = wire === 'websocket' ? `/api/ws/tasks?api_key=${key}` : '/socket.io/?EIO=4&transport=websocket';
    this.socket = new WebSocket(`${url.replace('http', 'ws')}${path}`);
    this.socket.on('close', (code, reason) => {
      this.closed = { code, reason: String(reason) };
    });
    this.opened = new Promise((resolve) => {
      this.socket.on('open', () => wire === 'websocket' && resolve());
      this.socket.on('message', (bytes) => {
        const text = String(bytes);
        if (text === '2') {
          this.socket.send('3');
        } else if (text.startsWith('0{')) {
          this.socket.send(`40/api/ws/tasks,${JSON.stringify({ api_key: key })}`);
        } else if (text.startsWith('40/')) {
          resolve();
        } else if (text.startsWith('43/')) {
          [this.answer] = JSON.parse(text.slice(text.indexOf('[')));
        } else {
          const message = JSON.parse(text.startsWith('42/') ? text.slice(text.indexOf('{'), -1) : text);
          if (message.type === 'SUCCESS') {
            this.answer = message.data.data;
          } else if (message.type === 'TASK_UPDATED') {
            this.seqs.push(message.seq);
          }
        }
      });
    });
  }

  async subscribe(data: unknown): Promise<Any> {
    await this.opened;
    this.socket.send(
      this.wire === 'websocket'
        ? JSON.stringify({ type: 'SUBSCRIBE', data })
        : `42/api/ws/tasks,0${JSON.stringify(['SUBSCRIBE', data])}`,
    );
    return eventually(
      () => {
        expect(this.answer).to.not.equal(undefined);
        return this.answer;
      },
      { timeoutMs: 30_000 },
    );
  }

  pause(): void {
    this.socket.pause();
  }

  resume(): void {
    this.socket.resume();
  }

  closedWith(): { code: number; reason: string } {
    expect(this.closed).to.not.equal(undefined);
    return this.closed!;
  }

  close(): void {
    this.socket.terminate();
  }
}

/** For megabytes through an embedded database on a busy machine, in milliseconds. */
const PATIENCE_MS = 120_000;

describe('gateways', function () {
  this.timeout(60_000);
  let database: Awaited<ReturnType<typeof embeddedForTest>>;
  let db: Knex;
  let server: InProcessServer;
  let tasks: TaskRepository;
  let jobs: JobRepository;
  let keys: ApiKeyRepository;
  let ada: string;
  let eve: string;
  let nextJob = 1;
  const opened: Array<{ close(): void }> = [];

  before(async () => {
    database = await embeddedForTest();
    db = connectDatabase({ url: database.url, pool: 4 });
    server = new InProcessServer(database.url, {
      MAX_MESSAGE_BYTES: '2000',
      PING_INTERVAL_MS: '500',
      PING_TIMEOUT_MS: '500',
      ALLOWED_ORIGINS: 'https://app.example.com',
    });
    await server.start();
    tasks = new TaskRepository(db, new Publisher(server.broker, silentLogger));
    jobs = new JobRepository(db);
    keys = new ApiKeyRepository(db);
    ada = (await keys.create({ owner: 'ada', rate_limit: 1_000_000 })).key;
    eve = (await keys.create({ owner: 'eve', rate_limit: 1_000_000 })).key;
  });
  afterEach(() => {
    for (const client of opened.splice(0)) {
      client.close();
    }
  });
  after(async () => {
    await server?.stop();
    await db?.destroy();
    await database?.stop();
  });

  async function makeJob(user_id = 'ada'): Promise<string> {
    const job_id = String(nextJob++);
    await jobs.create({ job_id, user_id });
    return job_id;
  }

  const makeTask = async (job_id: string): Promise<number> =>
    (await tasks.createTaskData({ job_id, task_definition_id: 1, is_imua: false })).task_id;

  function plain(key: string | undefined, { url = server.url, headers = {}, query = '' } = {}): PlainClient {
    const client = new PlainClient(`${url}/api/ws/tasks${query}`, {
      ...(key === undefined ? {} : { 'x-api-key': key }),
      ...headers,
    });
    opened.push({ close: () => client.socket.terminate() });
    return client;
  }

  async function openPlain(key = ada, url = server.url): Promise<PlainClient> {
    const client = plain(key, { url });
    await once(client.socket, 'open');
    return client;
  }

  function socketio(options: Record<string, unknown> = {}, url = server.url): Socket {
    const socket = io(`${url}/api/ws/tasks`, {
      auth: { api_key: ada },
      transports: ['websocket'],
      forceNew: true,
      reconnection: false,
      ...options,
    });
    opened.push({ close: () => socket.disconnect() });
    return socket;
  }

  async function openSocketio(options: Record<string, unknown> = {}, url = server.url): Promise<Socket> {
    const socket = socketio(options, url);
    await once(socket as Any, 'connect');
    return socket;
  }

  describe('plain WebSocket', () => {
    it('takes the key from the query or the header', async () => {
      for (const given of [{ headers: { 'x-api-key': ada } }, { query: `?api_key=${ada}` }]) {
        const client = plain(undefined, given);
        await once(client.socket, 'open');
        client.send({ type: 'PING', request_id: 'p' });
        expect((await client.answer('p')).type).to.equal('PONG');
      }
    });

    it('tells in band why it refuses, and closes with the code of the table', async () => {
      const inactive = await keys.create({ owner: 'ada' });
      await keys.disable(inactive.record.key_id);
      const cases: Array<[PlainClient, string, number]> = [
        [plain(undefined), 'MISSING_API_KEY', 4501],
        [plain('tw_wrong'), 'INVALID_API_KEY', 4502],
        [plain(inactive.key), 'INACTIVE_API_KEY', 4503],
        [plain(ada, { query: `?api_key=${eve}` }), 'AUTHENTICATION_FAILED', 4504],
        [plain(ada, { headers: { origin: 'https://evil.example.com' } }), 'ORIGIN_NOT_ALLOWED', 4505],
      ];
      for (const [client, code, close] of cases) {
        expect((await client.ended()).code, code).to.equal(close);
        expect(client.messages.map(({ type, data }) => [type, data.code])).to.deep.equal([['ERROR', code]]);
        expect(client.messages[0].data.message).to.be.a('string');
      }
    });

    it('answers what it does not understand with an error and stays open', async () => {
      const client = await openPlain();
      const cases: Array<[unknown, string]> = [
        ['not json', 'INVALID_MESSAGE'],
        ['[]', 'INVALID_MESSAGE'],
        ['null', 'INVALID_MESSAGE'],
        ['{"type":1}', 'INVALID_MESSAGE'],
        [Buffer.from('{"type":"PING"}'), 'INVALID_MESSAGE'],
        [{ type: 'SHOUT' }, 'INVALID_MESSAGE_TYPE'],
        [{ type: 'SUBSCRIBE' }, 'INVALID_SUBSCRIPTION_DATA'],
        [{ type: 'SUBSCRIBE', data: { room: 'kitchen:1' } }, 'INVALID_ROOM'],
        [{ type: 'SUBSCRIBE', data: { room: 'job:999999' } }, 'ACCESS_DENIED'],
        [{ type: 'UNSUBSCRIBE', data: { room: 7 } }, 'INVALID_UNSUBSCRIPTION_DATA'],
      ];
      for (const [index, [message, code]] of cases.entries()) {
        client.send(message);
        await eventually(() => expect(client.messages).to.have.length(index + 1));
        expect([client.messages[index].type, client.messages[index].data.code]).to.deep.equal(['ERROR', code]);
      }
      expect(client.closed).to.equal(undefined);
    });

    it('echoes request_id in good and bad answers as it was written, and refuses what is none', async () => {
      const client = await openPlain();
      client.send({ type: 'SHOUT', request_id: 'bad' });
      expect((await client.answer('bad')).type).to.equal('ERROR');
      const written = ['7', '0', '-1.50', 'true', 'false', '""', '"\\u00e4\\n"', '12345678901234567890', '1e400'];
      for (const [index, id] of written.entries()) {
        client.send(`{"request_id": ${id}, "type": "PING"}`);
        await eventually(() => expect(client.texts).to.have.length(index + 2));
        const echoed = /,"request_id":(.*)\}$/.exec(client.texts.at(-1)!)?.[1];
        const same = id.startsWith('"') ? JSON.stringify(JSON.parse(id)) : id;
        expect(echoed).to.equal(same);
        expect(client.messages.at(-1).type).to.equal('PONG');
      }
      client.send('{"type":"PING","request_id":null}');
      client.send({ type: 'PING', request_id: {} });
      client.send({ type: 'PING', request_id: ['1'] });
      client.send({ type: 'PING', request_id: 'x'.repeat(129) });
      await eventually(() => expect(client.messages).to.have.length(written.length + 5));
      const [none, ...refused] = client.messages.slice(written.length + 1);
      expect(none).to.include({ type: 'PONG' }).and.to.not.have.property('request_id');
      for (const message of refused) {
        expect(message.data).to.include({ code: 'INVALID_MESSAGE' }).and.to.have.deep.property('details', {
          field: 'request_id',
        });
        expect(message).to.not.have.property('request_id');
      }
    });

    it('closes a connection whose message is too large', async () => {
      const client = await openPlain();
      client.send('x'.repeat(2_001));
      expect((await client.ended()).code).to.equal(1009);
    });

    it('reads nothing before it knows whose it is, and loses nothing of it', async () => {
      const job = await makeJob();
      const { port } = new URL(server.url);
      const socket = connectTcp(Number(port), '127.0.0.1');
      let received = '';
      socket.setEncoding('latin1').on('data', (text) => {
        received += text;
      });
      const text = Buffer.from(
        JSON.stringify({ type: 'SUBSCRIBE', data: { room: `job:${job}` }, request_id: 'early' }),
      );
      const frame = Buffer.concat([Buffer.from([0x81, 0x80 | text.length, 0, 0, 0, 0]), text]);
      const request =
        `GET /api/ws/tasks HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
        `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Api-Key: ${ada}\r\n\r\n`;
      // In one segment with the handshake, as an eager client may send it.
      socket.write(Buffer.concat([Buffer.from(request), frame]));
      await eventually(() => expect(received).to.include('"request_id":"early"'));
      expect(received).to.include('"SUCCESS"');
      socket.destroy();
    });

    it('refuses other paths', async () => {
      for (const path of ['/', '/api/ws/task', '/api/ws/tasks/more']) {
        const client = new PlainClient(`${server.url}${path}?api_key=${ada}`);
        const [, response] = (await once(client.socket, 'unexpected-response')) as [unknown, { statusCode: number }];
        expect(response.statusCode).to.equal(404);
      }
    });

    it('pings, and cuts off who does not answer', async () => {
      const client = await openPlain();
      await once(client.socket, 'ping');
      const deaf = connectTcp(Number(new URL(server.url).port), '127.0.0.1');
      deaf.write(
        `GET /api/ws/tasks HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
          `Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Api-Key: ${ada}\r\n\r\n`,
      );
      deaf.resume();
      await once(deaf, 'close');
      expect(client.closed).to.equal(undefined);
    });
  });

  describe('Socket.IO', () => {
    it('connects over polling, WebSocket and the upgrade, with the key in auth, query or header', async () => {
      for (const options of [
        { transports: ['polling'] },
        { transports: ['websocket'] },
        { transports: ['polling', 'websocket'] },
        { auth: {}, query: { api_key: ada } },
        { auth: {}, extraHeaders: { 'x-api-key': ada } },
      ]) {
        const socket = await openSocketio(options);
        const answer = await socket.emitWithAck('PING', {});
        expect(answer, JSON.stringify(options)).to.deep.equal({ positions: [] });
        if (options.transports?.length === 2) {
          await eventually(() => expect(socket.io.engine.transport.name).to.equal('websocket'));
        }
      }
    });

    it('says why it refuses', async () => {
      for (const [options, code] of [
        [{ auth: {} }, 'MISSING_API_KEY'],
        [{ auth: { api_key: 7 } }, 'INVALID_API_KEY'],
        [{ query: { api_key: eve } }, 'AUTHENTICATION_FAILED'],
        [{ extraHeaders: { origin: 'https://evil.example.com' } }, 'ORIGIN_NOT_ALLOWED'],
        [{ extraHeaders: { origin: 'https://evil.example.com' }, transports: ['polling'] }, 'ORIGIN_NOT_ALLOWED'],
        [{ extraHeaders: { origin: 'https://evil.example.com' }, auth: {} }, 'ORIGIN_NOT_ALLOWED'],
      ] as const) {
        const [error] = (await once(socketio(options) as Any, 'connect_error')) as [Any];
        expect(error.data.code).to.equal(code);
        expect(error.data.message).to.equal(error.message);
      }
    });

    it('lets a client that finds a worker draining come back by itself, over each transport', async () => {
      const leaving = new InProcessServer(database.url);
      await leaving.start();
      const portOf = ({ url }: InProcessServer): number => Number(new URL(url).port);
      const target = { port: portOf(leaving) };
      const proxy = await startTcpProxy(target);
      try {
        await leaving.server.drain(0);
        for (const transports of [['websocket'], ['polling'], ['polling', 'websocket']]) {
          target.port = portOf(leaving);
          const refusals: Any[] = [];
          let attempts = 0;
          const socket = socketio(
            { transports, reconnection: true, reconnectionDelay: 20, reconnectionDelayMax: 20 },
            `http://127.0.0.1:${proxy.port}`,
          );
          socket.on('connect_error', (error: Any) => refusals.push(error.data));
          socket.io.on('reconnect', () => {
            attempts += 1;
          });
          await eventually(() => expect(attempts, transports.join()).to.be.at.least(2));
          expect(socket.connected).to.equal(false);
          target.port = portOf(server);
          await eventually(() => expect(socket.connected, transports.join()).to.equal(true));
          expect(refusals.filter((data) => data !== undefined)).to.deep.equal([]);
          socket.disconnect();
        }
      } finally {
        await proxy.stop();
        await leaving.stop();
      }
    });

    it('gives back the place of a connection that was refused or has ended', async () => {
      await once(socketio({ auth: {} }) as Any, 'connect_error');
      const socket = await openSocketio();
      const client = await openPlain();
      socket.disconnect();
      client.socket.terminate();
      await eventually(() => {
        expect(server.broker.places().every((taken) => taken === 0)).to.equal(true);
      });
      await eventually(() => expect(server.server.io.engine.clientsCount).to.equal(0));
    });

    it('lets go of the request that a connection came with', async () => {
      const requests: Array<WeakRef<object>> = [];
      const note = (request: object): number => requests.push(new WeakRef(request));
      server.server.http.on('upgrade', note);
      try {
        for (const transports of [['websocket'], ['polling', 'websocket']]) {
          const socket = await openSocketio({ transports });
          await eventually(() => expect(socket.io.engine.transport.name).to.equal('websocket'));
          expect(await socket.emitWithAck('PING')).to.deep.equal({ positions: [] });
        }
        expect(requests).to.have.length(2);
        setFlagsFromString('--expose-gc');
        const collect = runInNewContext('gc') as () => void;
        await eventually(() => {
          collect();
          expect(requests.filter((request) => request.deref() !== undefined)).to.have.length(0);
        });
        expect(server.server.io.engine.clientsCount).to.equal(2);
      } finally {
        server.server.http.off('upgrade', note);
      }
    });

    it('offers no other namespace', async () => {
      const socket = io(server.url, { transports: ['websocket'], forceNew: true, reconnection: false });
      opened.push({ close: () => socket.disconnect() });
      const [error] = (await once(socket as Any, 'connect_error')) as [Any];
      expect(error.data.code).to.equal('INVALID_REQUEST');
      expect(error.data.message).to.contain('/api/ws/tasks');
    });

    it('answers in the acknowledgement, or with messages when none was asked for', async () => {
      const job = await makeJob();
      const socket = await openSocketio();
      const heard: Any[] = [];
      socket.onAny((type, message) => heard.push([type, message]));
      expect((await socket.emitWithAck('SUBSCRIBE', { room: 'kitchen:1' })).error.code).to.equal('INVALID_ROOM');
      expect((await socket.emitWithAck('SHOUT')).error.code).to.equal('INVALID_MESSAGE_TYPE');
      expect(await socket.emitWithAck('SUBSCRIBE', { room: `job:${job}` })).to.include({ room: `job:${job}` });
      expect(heard.map(([type]) => type)).to.deep.equal(['JOB_TASKS_SNAPSHOT']);
      socket.emit('PING');
      socket.emit('SHOUT');
      socket.emit('UNSUBSCRIBE', { room: `job:${job}` });
      await eventually(() => expect(heard).to.have.length(4));
      expect(heard.slice(1).map(([type, { type: inside }]) => [type, inside])).to.deep.equal([
        ['PONG', 'PONG'],
        ['ERROR', 'ERROR'],
        ['SUCCESS', 'SUCCESS'],
      ]);
    });
  });

  it('both wires see the same events, once, in all rooms of the event together', async () => {
    const job = await makeJob();
    const task = await makeTask(job);
    const rooms = [`job:${job}`, `task:${task}`, 'user:ada'];
    const client = await openPlain();
    client.send({ type: 'SUBSCRIBE', data: { rooms }, request_id: 's' });
    const { data } = (await client.answer('s')).data;
    expect(data.rooms.map(({ room }: Any) => room)).to.deep.equal(rooms);
    const socket = await openSocketio();
    const heard: Any[] = [];
    socket.onAny((type, message) => heard.push([type, message]));
    await socket.emitWithAck('SUBSCRIBE', { rooms });
    await tasks.updateTaskNumberAndStatus(task, 1, 'processing');
    await tasks.updateTaskFee(task, 2.5);
    await eventually(() => expect(heard).to.have.length(3));
    const events = client.messages.filter(({ type }) => type.startsWith('TASK_'));
    expect(heard.slice(1).map(([, message]) => message)).to.deep.equal(events);
    expect(heard.slice(1).map(([type]) => type)).to.deep.equal(['TASK_STATUS_CHANGED', 'TASK_FEE_UPDATED']);
    expect(events[0].data.changes).to.include({ old_status: 'pending', new_status: 'processing' });
    expect(events[1].data.changes).to.include({ old_fee: null, new_fee: 2.5, task_opx_cost: 2.5 });
  });

  it('shows a user nothing of another one', async () => {
    const job = await makeJob('eve');
    const task = await makeTask(job);
    const client = await openPlain(ada);
    for (const room of [`job:${job}`, `task:${task}`, 'user:eve']) {
      client.send({ type: 'SUBSCRIBE', data: { room }, request_id: room });
      expect((await client.answer(room)).data.code).to.equal('ACCESS_DENIED');
    }
  });

  it('closes the connections of a key that was revoked', async () => {
    const { key, record } = await keys.create({ owner: 'ada' });
    const admin = await keys.create({ owner: 'root', role: 'admin' });
    const client = await openPlain(key);
    const socket = await openSocketio({ auth: { api_key: key } });
    const errors: Any[] = [];
    socket.on('ERROR', (message) => errors.push(message.data.code));
    const gone = once(socket as Any, 'disconnect');
    const answer = await fetch(`${server.url}/api/keys/${record.key_id}`, {
      method: 'DELETE',
      headers: { 'x-api-key': admin.key },
    });
    expect(answer.status).to.equal(200);
    expect((await client.ended()).code).to.equal(4503);
    expect((await gone)[0]).to.equal('io server disconnect');
    expect(errors).to.deep.equal(['INACTIVE_API_KEY']);
  });

  it('both paths bring the same frames, byte for byte', async () => {
    const stock = new InProcessServer(database.url, { DIRECT_FRAMES: 'false' });
    await stock.start();
    const clients: RawClient[] = [];
    try {
      const job = await makeJob();
      const received: Array<{ wire: Wire; direct: boolean; frames: Buffer[] }> = [];
      let answered = 0;
      for (const wire of ['websocket', 'socket.io'] as const) {
        for (const { url } of [server, stock]) {
          const frames: Buffer[] = [];
          received.push({ wire, direct: url === server.url, frames });
          const target = { wire, port: Number(new URL(url).port), key: ada };
          clients.push(
            new RawClient(target, { room: `job:${job}` }, ({ bytes, payload }) => {
              // Of what else is sent, times and ids differ.
              if (payload.subarray(0, 40).includes('"TASK_')) {
                frames.push(Buffer.from(bytes));
              } else if (payload.subarray(0, 20).includes(wire === 'websocket' ? '"SUCCESS"' : '43/')) {
                answered += 1;
              }
            }),
          );
        }
      }
      await eventually(() => expect(answered).to.equal(4));
      // Some in one turn, some alone, some longer than a short or a medium frame can hold.
      const task = await makeTask(job);
      await Promise.all(Array.from({ length: 20 }, (_, n) => tasks.updateTaskFee(task, n)));
      for (const length of [10, 200, 40_000]) {
        await tasks.updateTaskExecutionData(task, { proof_of_task: 'ü'.repeat(length) });
      }
      // The second server shares no broker with the writer, so that it finds all of it in the log.
      await eventually(() => expect(received.map(({ frames }) => frames.length)).to.deep.equal([24, 24, 24, 24]), {
        timeoutMs: 20_000,
      });
      const [plain, plainStock, socketio, socketioStock] = received.map(({ frames }) => frames);
      expect(Buffer.concat(plain!).equals(Buffer.concat(plainStock!)), 'plain WebSocket').to.equal(true);
      expect(Buffer.concat(socketio!).equals(Buffer.concat(socketioStock!)), 'Socket.IO').to.equal(true);
      for (const [index, frame] of plain!.entries()) {
        const { data } = JSON.parse(textOf(frame));
        expect(data.task_id).to.equal(task);
        const packet = /^42\/api\/ws\/tasks,\["(TASK_[A-Z_]+)",(.*)\]$/s.exec(textOf(socketio![index]!))!;
        expect(packet[2]).to.equal(textOf(frame));
        expect(JSON.parse(packet[2]!).type).to.equal(packet[1]);
      }
      expect(plain!.map(({ length }) => length).filter((length) => length > 65_536)).to.have.length(1);
    } finally {
      for (const client of clients) {
        client.destroy();
      }
      await stock.stop();
    }
  });

  for (const wire of ['websocket', 'socket.io'] as const) {
    it(`keeps back what a connection does not read yet, and brings it all when it reads on: ${wire}`, async function () {
      this.timeout(2 * PATIENCE_MS);
      const small = new InProcessServer(database.url, { MAX_BUFFERED_BYTES: '100000', RECONCILE_IDLE_MS: '50' });
      await small.start();
      try {
        const job = await makeJob();
        const made = await tasks.createManyTaskData(
          'ada',
          Array.from({ length: FLOOD }, () => ({ job_id: job, task_definition_id: 1 })),
        );
        const [slow, quick] = [new Reader(wire, small.url, ada), new Reader(wire, small.url, ada)];
        opened.push(slow, quick);
        const { seq } = await slow.subscribe({ room: `job:${job}` });
        await quick.subscribe({ room: `job:${job}` });
        slow.pause();
        // More than the buffers on the way can hold.
        await tasks.updateManyTaskData(
          'ada',
          made.map((task) => ({
            kind: 'execution',
            task_id: (task as TaskWrite).task_id,
            proof_of_task: 'x'.repeat(40_000),
          })),
        );
        await eventually(() => expect(quick.seqs).to.have.length(FLOOD), { timeoutMs: PATIENCE_MS });
        expect(slow.seqs.length).to.be.below(FLOOD);
        slow.resume();
        const all = Array.from({ length: FLOOD }, (_, n) => seq + n + 1);
        await eventually(() => expect(slow.seqs).to.deep.equal(all), { timeoutMs: PATIENCE_MS });
        expect(slow.closed).to.equal(undefined);
      } finally {
        await small.stop();
      }
    });

    it(`closes a connection that does not read with SLOW_CONSUMER, and it resumes without loss: ${wire}`, async function () {
      this.timeout(2 * PATIENCE_MS);
      const small = new InProcessServer(database.url, {
        MAX_BUFFERED_BYTES: '100000',
        RECONCILE_IDLE_MS: '50',
        SLOW_CONSUMER_MS: '2000',
      });
      await small.start();
      try {
        const job = await makeJob();
        const made = await tasks.createManyTaskData(
          'ada',
          Array.from({ length: FLOOD }, () => ({ job_id: job, task_definition_id: 1 })),
        );
        const flood = (size: number): Promise<unknown> =>
          tasks.updateManyTaskData(
            'ada',
            made.map((task) => ({
              kind: 'execution',
              task_id: (task as TaskWrite).task_id,
              proof_of_task: 'x'.repeat(size),
            })),
          );
        const [slow, quick] = [new Reader(wire, small.url, ada), new Reader(wire, small.url, ada)];
        opened.push(slow, quick);
        const { seq } = await slow.subscribe({ room: `job:${job}` });
        await quick.subscribe({ room: `job:${job}` });

        slow.pause();
        // More than the buffers on the way can hold; what comes then finds the connection behind.
        await flood(40_000);
        await eventually(() => expect(quick.seqs).to.have.length(FLOOD), { timeoutMs: PATIENCE_MS });
        await flood(100);
        await eventually(() => expect(quick.seqs).to.have.length(2 * FLOOD), { timeoutMs: PATIENCE_MS });
        // Its rooms are left when it is given up.
        const { key: service } = await keys.create({ owner: 'ops', role: 'service' });
        const members = async (): Promise<unknown> =>
          ((await (await fetch(`${small.url}/api/ws/stats`, { headers: { 'x-api-key': service } })).json()) as Any).data
            .rooms[`job:${job}`];
        await eventually(async () => expect(await members()).to.equal(1), { timeoutMs: PATIENCE_MS });
        slow.resume();
        expect(await eventually(() => slow.closedWith())).to.deep.equal({ code: 4008, reason: 'SLOW_CONSUMER' });
        expect(quick.closed).to.equal(undefined);

        const before = slow.seqs;
        const again = new Reader(wire, small.url, ada);
        opened.push(again);
        const answer = await again.subscribe({ room: `job:${job}`, since: before.at(-1) ?? seq });
        expect(answer.recovered).to.equal(true);
        const all = Array.from({ length: 2 * FLOOD }, (_, n) => seq + n + 1);
        expect([...before, ...again.seqs]).to.deep.equal(all);
        expect(quick.seqs).to.deep.equal(all);
      } finally {
        await small.stop();
      }
    });
  }
});
