import { expect } from 'chai';
import { io, type Socket } from 'socket.io-client';
import WebSocket from 'ws';
import { TaskRepository } from '../../src/repository/task-repository.js';
import type { TaskWrite } from '../../src/repository/write-runner.js';
import { eventually } from '../support/eventually.js';
import { Instance } from '../support/instance.js';
import { POSTGRES_PROGRAMS, type PostgresServer, startPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { NGINX, type ReverseProxy } from '../support/proxy.js';
import { Scene } from '../support/scene.js';
import { ThinLine } from '../support/thin-line.js';

const MIB = 1_048_576;
const JOB_BYTES = 8 * MIB;
const BYTES_PER_SECOND = 200_000;
const TASKS = 4_000;
const BATCH = 500;
const PING_MS = 2_000;
const EVENT_MS = 200;

// biome-ignore lint/suspicious/noExplicitAny: messages of every form
type Any = any;

/** A client of either wire at the end of a thin line. It keeps the newest state of each task, and what it got in order. */
class ThinClient {
  /** Types of the messages, in order. */
  readonly types: string[] = [];
  readonly proofs = new Map<number, string>();
  /** Where the rest of a snapshot begins that did not fit. */
  cursor: number | undefined;
  largest = 0;
  othersEvents = 0;
  ended: string | undefined;
  /** Rejects when the connection ends. */
  readonly gone: Promise<never>;
  private readonly known = new Map<number, number>();
  private readonly socket: WebSocket | Socket;
  private readonly answers = new Map<string, (data: Any) => void>();

  constructor(
    wire: 'websocket' | 'socket.io',
    url: string,
    key: string,
    private readonly job: string,
  ) {
    let end: (error: Error) => void;
    this.gone = new Promise((_resolve, reject) => {
      end = reject;
    });
    this.gone.catch(() => {});
    const onEnd = (how: string): void => {
      this.ended = how;
      end(new Error(how));
    };
    if (wire === 'websocket') {
      const socket = new WebSocket(`${url.replace('http', 'ws')}/api/ws/tasks?api_key=${key}`);
      socket.on('message', (bytes) => {
        this.largest = Math.max(this.largest, (bytes as Buffer).length);
        this.take(JSON.parse(String(bytes)));
      });
      socket.on('close', (code, reason) => onEnd(`${code} ${reason}`));
      socket.on('error', () => {});
      this.socket = socket;
    } else {
      const socket = io(`${url}/api/ws/tasks`, {
        auth: { api_key: key },
        transports: ['websocket'],
        reconnection: false,
        forceNew: true,
      });
      socket.onAny((_type, message) => this.take(message));
      socket.io.on('open', () => {
        socket.io.engine.on('data', (data: unknown) => {
          this.largest = Math.max(this.largest, Buffer.byteLength(String(data)));
        });
      });
      socket.on('disconnect', onEnd);
      this.socket = socket;
    }
  }

  async opened(): Promise<void> {
    const { socket } = this;
    await eventually(() =>
      expect(socket instanceof WebSocket ? socket.readyState === WebSocket.OPEN : socket.connected).to.equal(true),
    );
  }

  ask(type: string, data: unknown): Promise<Any> {
    const { socket } = this;
    if (socket instanceof WebSocket) {
      const request_id = String(Math.random());
      return new Promise((resolve) => {
        this.answers.set(request_id, resolve);
        socket.send(JSON.stringify({ type, data, request_id }));
      });
    }
    return new Promise((resolve) => {
      const answer = (outcome: Any): void => {
        this.types.push(type === 'PING' ? 'PONG' : 'SUCCESS');
        resolve(outcome);
      };
      if (data === undefined) {
        socket.emit(type, answer);
      } else {
        socket.emit(type, data, answer);
      }
    });
  }

  close(): void {
    this.socket.close();
  }

  private take({ type, seq, data, request_id }: Any): void {
    this.types.push(type);
    if (request_id !== undefined) {
      this.answers.get(request_id)?.(data.data ?? data);
    } else if (data.tasks !== undefined) {
      this.cursor ??= data.before;
      for (const task of data.tasks) {
        this.known.set(task.task_id, seq);
        this.proofs.set(task.task_id, task.proof_of_task);
      }
    } else if (data.job_id === this.job) {
      if (seq > (this.known.get(data.task_id) ?? 0)) {
        this.known.set(data.task_id, seq);
        this.proofs.set(data.task_id, data.changes.proof_of_task);
      }
    } else if (data.changes !== undefined) {
      this.othersEvents += 1;
    }
  }
}

describeWith([...POSTGRES_PROGRAMS, 'nginx'], 'thin lines', function () {
  this.timeout(400_000);
  let postgres: PostgresServer;
  let scene: Scene;
  let instance: Instance;
  let nginx: ReverseProxy;
  let tasks: TaskRepository;
  let job: string;
  let ids: number[];
  let others: number[];
  let whole: Promise<void>;
  let onDemand: Promise<void>;
  const lines: ThinLine[] = [];
  const opened: ThinClient[] = [];
  const timers: NodeJS.Timeout[] = [];

  const line = async (port: number): Promise<string> => {
    const made = await ThinLine.start(port, BYTES_PER_SECOND);
    lines.push(made);
    return made.url;
  };
  const make = async (user: string, jobId: string, count: number): Promise<number[]> => {
    const made: number[] = [];
    for (let at = 0; at < count; at += BATCH) {
      const batch = Array.from({ length: Math.min(BATCH, count - at) }, () => ({
        job_id: jobId,
        task_definition_id: 1,
      }));
      made.push(...(await tasks.createManyTaskData(user, batch)).map((task) => (task as TaskWrite).task_id));
    }
    return made;
  };
  const prove = (user: string, some: readonly number[], proof: string): Promise<unknown> =>
    tasks.updateManyTaskData(
      user,
      some.map((task_id) => ({ kind: 'execution', task_id, proof_of_task: proof })),
    );

  before(async () => {
    postgres = await startPostgres();
    const databaseUrl = await postgres.createDatabase();
    scene = await Scene.make(databaseUrl, { users: 2, jobsPerUser: 1 });
    // No publisher: events come from the log, a few times a second.
    tasks = new TaskRepository(scene.db, { publish: () => {} });
    job = scene.jobs[0]!.jobId;
    ids = await make('user_1', job, TASKS);
    others = await make('user_2', scene.jobs[1]!.jobId, 10);
    for (let at = 0; at < ids.length; at += BATCH) {
      await prove('user_1', ids.slice(at, at + BATCH), 'x'.repeat(JOB_BYTES / TASKS));
    }
    instance = await Instance.start({
      workers: 2,
      env: { DATABASE_URL: databaseUrl, RECONCILE_IDLE_MS: '200', TRUSTED_PROXIES: 'loopback' },
    });
    nginx = await NGINX.start({ instances: [instance.port, instance.port] });
    // 8 MiB take 42 s on such a line: all cases go on beside each other, and each test waits for its own.
    whole = takeWhole();
    onDemand = takeOnDemand();
    for (const work of [whole, onDemand]) {
      work.catch(() => {});
    }
  });

  after(async () => {
    for (const timer of timers) {
      clearInterval(timer);
    }
    for (const client of opened) {
      client.close();
    }
    for (const made of lines) {
      await made.stop();
    }
    await nginx?.stop();
    await instance?.kill();
    await scene?.close();
    await postgres?.stop();
  });

  it('take a job of 8 MiB in parts, with PINGs and events of other streams in between, on both wires, directly and through nginx', () =>
    whole);

  it('take the newest tasks in one message of less than 1 MiB when nothing else was asked for, and the rest on demand', () =>
    onDemand);

  async function takeWhole(): Promise<void> {
    const clients: ThinClient[] = [];
    const ports = [instance.port, Number(new URL(nginx.url).port)];
    for (const port of ports) {
      for (const wire of ['websocket', 'socket.io'] as const) {
        clients.push(new ThinClient(wire, await line(port), scene.serviceKey, job));
      }
    }
    opened.push(...clients);
    for (const client of clients) {
      await client.opened();
      await client.ask('SUBSCRIBE', { room: 'user:user_2' });
    }
    const answers = clients.map((client) => client.ask('SUBSCRIBE', { room: `job:${job}`, snapshot: { parts: true } }));
    let writes = 0;
    const written: Array<Promise<unknown>> = [];
    const writer = setInterval(() => {
      writes += 1;
      written.push(prove('user_2', [others[writes % others.length]!], `other ${writes}`));
      written.push(prove('user_1', [ids[(writes * 997) % ids.length]!], `new ${writes}`));
    }, EVENT_MS);
    const pongs: Array<Promise<unknown>> = [];
    const pinger = setInterval(() => {
      pongs.push(...clients.map((client) => client.ask('PING', undefined)));
    }, PING_MS);
    timers.push(writer, pinger);
    const outcomes = await Promise.all(answers.map((answer, index) => Promise.race([answer, clients[index]!.gone])));
    clearInterval(writer);
    clearInterval(pinger);
    await Promise.all([...pongs, ...written]);
    expect(outcomes.map(({ room }) => room)).to.deep.equal(outcomes.map(() => `job:${job}`));
    const rows = new Map(
      (await scene.db('tasks').where({ job_id: job }).select('task_id', 'proof_of_task')).map((row) => [
        Number(row.task_id),
        row.proof_of_task,
      ]),
    );
    for (const client of clients) {
      expect(client.ended).to.equal(undefined);
      expect(client.largest).to.be.within(1_000, MIB);
      await eventually(() => expect(client.proofs).to.deep.equal(rows), { timeoutMs: 30_000 });
      const during = client.types.slice(
        client.types.indexOf('SNAPSHOT_PART'),
        client.types.lastIndexOf('SNAPSHOT_PART'),
      );
      expect(during.filter((type) => type === 'PONG').length, 'PINGs are answered meanwhile').to.be.greaterThan(3);
      expect(client.othersEvents).to.be.greaterThan(10);
    }
  }

  async function takeOnDemand(): Promise<void> {
    const client = new ThinClient('websocket', await line(instance.port), scene.serviceKey, job);
    opened.push(client);
    await client.opened();
    const { seq, epoch } = await client.ask('SUBSCRIBE', { room: `job:${job}` });
    const answers = client.types.filter((type) => !type.startsWith('TASK_'));
    expect(answers).to.deep.equal(['JOB_TASKS_SNAPSHOT', 'SUCCESS']);
    expect(client.largest).to.be.within(MIB / 2, MIB);
    const before = client.cursor!;
    expect(before).to.be.greaterThan(ids[0]!);
    const again = await client.ask('SUBSCRIBE', { room: `job:${job}`, since: seq, epoch, snapshot: { before } });
    expect(again.recovered).to.equal(true);
    expect([...client.proofs.keys()].sort((one, other) => one - other)).to.deep.equal(ids);
  }
});
