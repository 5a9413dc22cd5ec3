import { once } from 'node:events';
import { expect } from 'chai';
import type { Knex } from 'knex';
import { io, type Socket } from 'socket.io-client';
import { silentLogger } from '../../src/base/logger.js';
import { Publisher } from '../../src/broker/publisher.js';
import { connectDatabase } from '../../src/database/connect-database.js';
import { ApiKeyRepository } from '../../src/repository/api-key-repository.js';
import { EventLog } from '../../src/repository/event-log.js';
import { JobRepository } from '../../src/repository/job-repository.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { eventually } from '../support/eventually.js';
import { PlainClient } from '../support/plain-client.js';
import { embeddedForTest, InProcessServer } from '../support/task-server.js';

// biome-ignore lint/suspicious/noExplicitAny: tests look into messages of every form
type Any = any;

/** One connection of either wire: what it is sent, and what its requests are answered with. */
interface Client {
  readonly messages: Any[];
  /** @returns the data of the answer, or `{error}` */
  ask(type: string, data?: unknown): Promise<Any>;
  close(): void;
}

const WIRES = ['websocket', 'socket.io'] as const;
type Wire = (typeof WIRES)[number];

class OverPlain implements Client {
  readonly plain: PlainClient;
  private asked = 0;

  constructor(url: string, key: string) {
    this.plain = new PlainClient(`${url}/api/ws/tasks`, { 'x-api-key': key });
  }

  get messages(): Any[] {
    return this.plain.messages.filter(({ request_id }) => request_id === undefined);
  }

  async ask(type: string, data?: unknown): Promise<Any> {
    this.asked += 1;
    const request_id = String(this.asked);
    this.plain.send({ type, data, request_id });
    const answer = await this.plain.answer(request_id);
    return answer.type === 'ERROR'
      ? { error: answer.data }
      : answer.type === 'SUCCESS'
        ? answer.data.data
        : answer.data;
  }

  close(): void {
    this.plain.socket.terminate();
  }
}

class OverSocketio implements Client {
  readonly messages: Any[] = [];

  constructor(readonly socket: Socket) {
    socket.onAny((_type, message) => this.messages.push(message));
  }

  ask(type: string, data?: unknown): Promise<Any> {
    return this.socket.emitWithAck(type, data);
  }

  close(): void {
    this.socket.disconnect();
  }
}

const socketTo = (url: string, key: string, options: Record<string, unknown> = {}): Socket =>
  io(`${url}/api/ws/tasks`, {
    auth: { api_key: key },
    transports: ['websocket'],
    forceNew: true,
    reconnection: false,
    ...options,
  });

describe('the protocol on both wires', function () {
  this.timeout(60_000);
  let database: Awaited<ReturnType<typeof embeddedForTest>>;
  let db: Knex;
  let server: InProcessServer;
  let tasks: TaskRepository;
  let jobs: JobRepository;
  let keys: ApiKeyRepository;
  let log: EventLog;
  let service: string;
  let lastJob = 0;
  let lastUser = 0;
  const opened: Client[] = [];
  const others: InProcessServer[] = [];

  before(async () => {
    database = await embeddedForTest();
    db = connectDatabase({ url: database.url, pool: 4 });
    server = new InProcessServer(database.url, { RECONCILE_IDLE_MS: '50' });
    await server.start();
    tasks = new TaskRepository(db, new Publisher(server.broker, silentLogger));
    jobs = new JobRepository(db);
    keys = new ApiKeyRepository(db);
    log = new EventLog(db);
    service = (await keys.create({ owner: 'scheduler', role: 'service', rate_limit: 1_000_000 })).key;
  });
  afterEach(async () => {
    for (const client of opened.splice(0)) {
      client.close();
    }
    await Promise.all(others.splice(0).map((other) => other.stop()));
  });
  after(async () => {
    await server?.stop();
    await db?.destroy();
    await database?.stop();
  });

  /** A server with other limits. */
  async function serverWith(environment: Record<string, string>): Promise<InProcessServer> {
    const other = new InProcessServer(database.url, { RECONCILE_IDLE_MS: '50', ...environment });
    await other.start();
    others.push(other);
    return other;
  }

  async function open(wire: Wire, key = service, url = server.url): Promise<Client> {
    if (wire === 'websocket') {
      const client = new OverPlain(url, key);
      opened.push(client);
      await once(client.plain.socket, 'open');
      return client;
    }
    const socket = socketTo(url, key);
    const client = new OverSocketio(socket);
    opened.push(client);
    await once(socket as Any, 'connect');
    return client;
  }

  const newUser = (): string => {
    lastUser += 1;
    return `user_${lastUser}`;
  };

  async function newJob(user_id: string): Promise<string> {
    lastJob += 1;
    await jobs.create({ job_id: String(lastJob), user_id });
    return String(lastJob);
  }

  /** A job with a task that has had some events. */
  async function jobWithEvents(user: string, events: number): Promise<{ job: string; task: number }> {
    const job = await newJob(user);
    const { task_id: task } = await tasks.createTaskData({ job_id: job, task_definition_id: 1 });
    for (let n = 1; n < events; n += 1) {
      await tasks.updateTaskFee(task, n);
    }
    return { job, task };
  }

  const head = async (user: string): Promise<{ seq: number; epoch: string }> => (await log.state(user))!;

  for (const wire of WIRES) {
    describe(wire, () => {
      it('refuses short and odd room names, and stays in no room', async () => {
        const client = await open(wire);
        for (const room of [
          '',
          ':',
          'j',
          'job',
          'job:',
          'tas',
          'user',
          'user:',
          ':1',
          'job:01',
          'task:0',
          'JOB:1',
          'use',
        ]) {
          expect((await client.ask('SUBSCRIBE', { room })).error.code, `"${room}"`).to.equal('INVALID_ROOM');
          expect((await client.ask('UNSUBSCRIBE', { room })).error.code, `"${room}"`).to.equal('INVALID_ROOM');
        }
        expect(await client.ask('PING')).to.deep.equal({ positions: [] });
      });

      it('takes the ids beside the room, and only those that agree', async () => {
        const user = newUser();
        const { job, task } = await jobWithEvents(user, 1);
        const { key } = await keys.create({ owner: user });
        const victim = newUser();
        await newJob(victim);
        const client = await open(wire, key);
        for (const data of [
          { room: `job:${job}`, job_id: job },
          { room: `job:${job}`, job_id: Number(job) },
          { room: `task:${task}`, task_id: task, user_id: user },
          { room: `user:${user}`, user_id: user },
        ]) {
          expect((await client.ask('SUBSCRIBE', data)).room, JSON.stringify(data)).to.equal(data.room);
        }
        for (const [data, code] of [
          [{ room: `user:${victim}`, user_id: user }, 'INVALID_SUBSCRIPTION_DATA'],
          [{ room: `job:${job}`, job_id: `${job}0` }, 'INVALID_SUBSCRIPTION_DATA'],
          [{ room: `user:${victim}`, user_id: victim }, 'ACCESS_DENIED'],
          [{ rooms: [`user:${victim}`], user_id: user }, 'INVALID_SUBSCRIPTION_DATA'],
        ] as const) {
          const answer = await client.ask('SUBSCRIBE', data);
          expect(answer.error?.code, JSON.stringify(data)).to.equal(code);
        }
        const { positions } = await client.ask('PING');
        expect(positions.map(({ room }: Any) => room)).to.have.members([`job:${job}`, `task:${task}`, `user:${user}`]);
      });

      it('replaces by a snapshot what cannot be recovered: another epoch, the future, a log that was trimmed', async () => {
        const user = newUser();
        const { job, task } = await jobWithEvents(user, 5);
        const { seq, epoch } = await head(user);
        await db.raw('DELETE FROM task_events WHERE user_id = ? AND seq <= 3', [user]);
        for (const [asked, recovered] of [
          [{ since: seq, epoch: 'anotherepoch' }, false],
          [{ since: seq + 1, epoch }, false],
          [{ since: seq + 1 }, false],
          [{ since: 2, epoch }, false],
          [{ since: 3, epoch }, true],
          [{ since: 3 }, true],
        ] as const) {
          for (const room of [`job:${job}`, `task:${task}`, `user:${user}`]) {
            const client = await open(wire);
            const answer = await client.ask('SUBSCRIBE', { room, ...asked });
            const title = `${room} ${JSON.stringify(asked)}`;
            expect(answer, title).to.deep.equal({ room, seq, epoch, recovered, replayed: recovered ? 2 : 0 });
            const types = client.messages.map(({ type }) => type);
            if (recovered) {
              expect(types, title).to.deep.equal(['TASK_FEE_UPDATED', 'TASK_FEE_UPDATED']);
            } else {
              expect(types, title).to.have.length(1);
              expect(types[0], title).to.match(/_SNAPSHOT$/);
              expect(client.messages[0], title).to.include({ seq, epoch });
              expect(client.messages[0].data.tasks[0], title).to.include({ task_id: task, task_opx_cost: 4 });
            }
            client.close();
          }
        }
      });

      it('sends connections away when the stream has another epoch, and tells them on their return', async () => {
        const user = newUser();
        const { job } = await jobWithEvents(user, 3);
        const room = `job:${job}`;
        const client = await open(wire);
        const { seq, epoch } = await client.ask('SUBSCRIBE', { room });
        const ended =
          client instanceof OverPlain
            ? client.plain.ended()
            : once((client as OverSocketio).socket as Any, 'disconnect');
        await db.raw("UPDATE event_streams SET epoch = 'restored' WHERE user_id = ?", [user]);
        if (client instanceof OverPlain) {
          expect(await ended).to.deep.equal({ code: 4010, reason: 'STREAM_RESET' });
        } else {
          // The reason with which socket.io-client comes back by itself.
          expect(((await ended) as Any)[0]).to.equal('transport close');
        }
        const again = await open(wire);
        expect(await again.ask('SUBSCRIBE', { room, since: seq, epoch })).to.deep.equal({
          room,
          seq,
          epoch: 'restored',
          recovered: false,
          replayed: 0,
        });
        expect(again.messages.map(({ type }) => type)).to.deep.equal(['JOB_TASKS_SNAPSHOT']);
      });

      it('says where a connection stands, when it asks and now and then', async () => {
        const user = newUser();
        const { job, task } = await jobWithEvents(user, 3);
        const quiet = await newJob(user);
        const talkative = await serverWith({ POSITION_INTERVAL_MS: '1' });
        const client = await open(wire, service, talkative.url);
        await client.ask('SUBSCRIBE', { rooms: [`job:${job}`, `job:${quiet}`] });
        await tasks.updateTaskFee(task, 9);
        await client.ask('PING');
        const { epoch } = await head(user);
        const expected = [
          { room: `job:${job}`, seq: 4, epoch },
          { room: `job:${quiet}`, seq: 4, epoch },
        ];
        await eventually(async () => {
          expect((await client.ask('PING')).positions).to.have.deep.members(expected);
        });
        await tasks.updateTaskFee(task, 10);
        // Events of the other job bring the quiet room forward too.
        await eventually(() => {
          const told = client.messages.findLast(({ type }) => type === 'POSITION');
          expect(told?.data.positions).to.have.deep.members(expected.map((place) => ({ ...place, seq: 5 })));
        });
        const back = await open(wire);
        const answer = await back.ask('SUBSCRIBE', { room: `job:${quiet}`, since: 5, epoch });
        expect(answer).to.include({ recovered: true, replayed: 0 });
      });

      it('says that a snapshot is cut, and has the newest tasks in it', async () => {
        const small = await serverWith({ MAX_SNAPSHOT_TASKS: '2' });
        const job = await newJob(newUser());
        const made: number[] = [];
        for (let n = 0; n < 3; n += 1) {
          made.push((await tasks.createTaskData({ job_id: job, task_definition_id: 1 })).task_id);
          const client = await open(wire, service, small.url);
          await client.ask('SUBSCRIBE', { room: `job:${job}` });
          const [{ data }] = client.messages;
          expect(data.truncated).to.equal(n < 2 ? undefined : true);
          expect(data.tasks.map(({ task_id }: Any) => task_id)).to.deep.equal(made.slice(-2));
        }
      });

      it('joins a hundred rooms with one message', async () => {
        const user = newUser();
        const rooms: string[] = [];
        for (let n = 0; n < 100; n += 1) {
          rooms.push(`job:${await newJob(user)}`);
        }
        const client = await open(wire);
        const answer = await client.ask('SUBSCRIBE', { rooms });
        expect(answer.rooms.map(({ room }: Any) => room)).to.deep.equal(rooms);
        expect(client.messages.map(({ type }) => type)).to.deep.equal(rooms.map(() => 'JOB_TASKS_SNAPSHOT'));
        await tasks.createManyTaskData(
          user,
          rooms.map((room) => ({ job_id: room.slice(4), task_definition_id: 1 })),
        );
        await eventually(() => expect(client.messages).to.have.length(200));
        const events = client.messages.slice(100);
        expect(events.map(({ data }) => `job:${data.job_id}`)).to.deep.equal(rooms);
        const left = await client.ask('UNSUBSCRIBE', { rooms });
        expect(left).to.deep.equal({ rooms });
        expect(await client.ask('PING')).to.deep.equal({ positions: [] });
      });

      it('reads messages that come too fast when the allowance is back, and loses none', async () => {
        const slow = await serverWith({ MAX_MESSAGES_PER_SECOND: '5' });
        const client = await open(wire, service, slow.url);
        // Fifty may come at once, the others come in later.
        const answers = await Promise.all(Array.from({ length: 60 }, () => client.ask('PING')));
        expect(answers.filter(({ error }) => error !== undefined)).to.deep.equal([]);
        const told = client.messages.filter(({ type }) => type === 'ERROR');
        expect(told).to.not.have.length(0);
        expect(told.length).to.be.below(10);
        for (const { data } of told) {
          expect(data.code).to.equal('RATE_LIMIT_EXCEEDED');
          expect(data.retry_after_ms).to.be.within(1, 200);
        }
        expect(await client.ask('PING')).to.deep.equal({ positions: [] });
      });

      it('closes a connection whose message is too large', async () => {
        const client = await open(wire);
        const large = { room: 'x'.repeat(40_000) };
        if (client instanceof OverPlain) {
          client.plain.send({ type: 'SUBSCRIBE', data: large });
          expect((await client.plain.ended()).code).to.equal(1009);
        } else {
          const { socket } = client as OverSocketio;
          const gone = once(socket as Any, 'disconnect') as Promise<Any[]>;
          socket.emit('SUBSCRIBE', large);
          const [reason, details] = await gone;
          expect(reason).to.equal('transport close');
          expect(details.context.code).to.equal(1009);
        }
      });
    });
  }

  it('lets ten connections of one address in, over whichever wire, and the next one when one has left', async () => {
    const small = await serverWith({ MAX_CONNECTIONS_PER_IP: '10' });
    const clients: Client[] = [];
    for (let n = 0; n < 10; n += 1) {
      clients.push(await open(WIRES[n % 2]!, service, small.url));
    }
    const plain = new OverPlain(small.url, service);
    opened.push(plain);
    expect(await plain.plain.ended()).to.deep.equal({ code: 4029, reason: 'RATE_LIMIT_EXCEEDED' });
    const told = { code: 'RATE_LIMIT_EXCEEDED', details: { limit: 10 }, retry_after_ms: 5_000 };
    expect(plain.messages[0].data).to.deep.include(told);
    for (const transports of [['websocket'], ['polling']]) {
      const socket = socketTo(small.url, service, { transports });
      opened.push(new OverSocketio(socket));
      // The body of a poll is gone when the handler has returned.
      const seen = await new Promise<Any[]>((resolve) => {
        socket.on('disconnect', (reason, details: Any) => {
          const { code, reason: name, responseText } = details.context;
          resolve(responseText === undefined ? [reason, code, name] : [reason, details.description, responseText]);
        });
      });
      if (transports[0] === 'websocket') {
        expect(seen).to.deep.equal(['transport close', 4029, 'RATE_LIMIT_EXCEEDED']);
      } else {
        expect(seen.slice(0, 2)).to.deep.equal(['transport error', 429]);
        expect(JSON.parse(seen[2]).error).to.deep.include(told);
      }
    }
    for (const wire of WIRES) {
      clients.pop()!.close();
      await eventually(() => expect(Math.max(...small.broker.places())).to.equal(9));
      const client = await open(wire, service, small.url);
      expect(await client.ask('PING')).to.deep.equal({ positions: [] });
    }
  });

  it('closes a polling connection whose message is too large', async () => {
    const socket = socketTo(server.url, service, { transports: ['polling'] });
    opened.push(new OverSocketio(socket));
    await once(socket as Any, 'connect');
    const gone = once(socket as Any, 'disconnect');
    socket.emit('SUBSCRIBE', { room: 'x'.repeat(40_000) });
    expect((await gone)[0]).to.match(/^transport (error|close)$/);
  });
});
