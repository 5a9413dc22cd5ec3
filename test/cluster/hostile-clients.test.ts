import { existsSync, readFileSync } from 'node:fs';
import { expect } from 'chai';
import WebSocket from 'ws';
import { eventually } from '../support/eventually.js';
import { clientFrame, HostileClient } from '../support/hostile-client.js';
import { Instance } from '../support/instance.js';
import { POSTGRES_PROGRAMS, type PostgresServer, startPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { Scene } from '../support/scene.js';

const BUFFERED_BYTES = 262_144;
/** More than the system keeps of what nobody reads, many times over. */
const FLOOD_BYTES = 200_000_000;
/** What a process may grow by under one attack, garbage that is not collected yet included. */
const ALLOWANCE_KB = 150 * 1024;
const ENGINE = '/socket.io/?EIO=4&transport=websocket';
const NAMESPACE = '/api/ws/tasks';

/** The memory of a process, in kB: its most since it started (VmHWM) or at this moment (VmRSS). */
function memoryKb(pid: number, what: 'VmHWM' | 'VmRSS'): number {
  return Number(new RegExp(`${what}:\\s+(\\d+) kB`).exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]);
}

/** Attacks that take their time, beside each other: each has a test that waits for it. */
class Group {
  private readonly attacks = new Map<string, () => Promise<void>>();

  /** @param growth what some work lets the processes grow by, in kB */
  constructor(private readonly growth: (work: () => Promise<void>) => Promise<number>) {}

  add(title: string, attack: () => Promise<void>): void {
    this.attacks.set(title, attack);
  }

  /** Defines the tests: one of each attack, and one of the memory that all of them took. */
  tests(): void {
    const running = new Map<string, Promise<void>>();
    let grown: Promise<number>;
    before(() => {
      for (const [title, attack] of this.attacks) {
        const work = attack();
        work.catch(() => {});
        running.set(title, work);
      }
      grown = this.growth(async () => {
        await Promise.allSettled(running.values());
      });
    });
    for (const title of this.attacks.keys()) {
      it(title, () => running.get(title));
    }
    it('take a bounded amount of memory, all together', async () => {
      expect(await grown).to.be.below(ALLOWANCE_KB);
    });
  }
}

describeWith(POSTGRES_PROGRAMS, 'hostile clients', function () {
  this.timeout(120_000);
  let postgres: PostgresServer;
  let scene: Scene;
  let instance: Instance;
  let worker: number;
  let key: string;

  before(async function () {
    if (!existsSync('/proc/self/status')) {
      this.skip();
    }
    postgres = await startPostgres();
    const databaseUrl = await postgres.createDatabase();
    scene = await Scene.make(databaseUrl, { users: 1, jobsPerUser: 1 });
    key = scene.keys.get('user_1')!;
    instance = await Instance.start({
      workers: 1,
      env: { DATABASE_URL: databaseUrl, MAX_BUFFERED_BYTES: String(BUFFERED_BYTES) },
    });
    [worker] = instance.workers as unknown as [number];
  });

  after(async () => {
    await instance?.kill();
    await scene?.close();
    await postgres?.stop();
  });

  afterEach(() => survived());

  /** The worker that started is still there and serves. */
  async function survived(): Promise<void> {
    const { status } = await instance.get('/api/ws/health');
    expect(status).to.equal(200);
    expect([...instance.workers]).to.deep.equal([worker]);
    expect(instance.log.filter(({ level }) => level === 'error')).to.deep.equal([]);
  }

  /** What an attack lets primary and worker grow by, in kB. */
  async function growth(attack: () => Promise<void>): Promise<number> {
    const before = [instance.pid, worker].map((pid) => memoryKb(pid, 'VmHWM'));
    await attack();
    const grown = [instance.pid, worker].map((pid, index) => memoryKb(pid, 'VmHWM') - before[index]!);
    return Math.max(...grown);
  }

  describe('that ask for an upgrade', () => {
    const unserved = ['/socket.io', '/socket.io?EIO=4&transport=websocket', '/', '/api/tasks', '*', '/%'];

    for (const [name, headers] of [
      ['', []],
      [' with a body', ['Content-Length: 0']],
    ] as const) {
      it(`of a path that nobody serves${name} are told so`, async () => {
        for (const target of unserved) {
          const client = await HostileClient.upgrade(instance.port, target, headers);
          await eventually(() => expect(client.gone).to.equal(true));
          expect(client.received, target).to.match(/^HTTP\/1\.1 404 /);
        }
      });

      it(`and are gone at once${name} end nobody`, async () => {
        for (const target of [...unserved, ENGINE, NAMESPACE]) {
          for (const end of ['reset', 'end'] as const) {
            for (let n = 0; n < 20; n += 1) {
              const client = await HostileClient.upgrade(instance.port, target, headers);
              if (n % 2 === 0) {
                await survived();
              }
              client[end]();
            }
          }
        }
      });
    }

    it('below the path of Socket.IO have it to themselves', async () => {
      const url = `${instance.url.replace(/^http/, 'ws')}/socket.io/anything?EIO=4&transport=websocket`;
      const ws = new WebSocket(url);
      const heard: string[] = [];
      let failure: Error | undefined;
      ws.on('error', (error) => {
        failure = error;
      });
      ws.on('message', (bytes) => {
        heard.push(String(bytes));
        if (heard.length === 1) {
          ws.send(`40${NAMESPACE},{"api_key":"${key}"}`);
        }
      });
      await eventually(() => expect(heard[1] ?? failure).to.match(/^40\/api/));
      expect(failure).to.equal(undefined);
      ws.terminate();
    });
  });

  describe('that never come to an end', () => {
    const group = new Group(growth);

    group.add('with the head of a request are cut off', async () => {
      const begun = [
        '',
        'GET /api',
        'GET / HTTP/1.1',
        'GET / HTTP/1.1\r\nX: ',
        `GET ${ENGINE} HTTP/1.1\r\nHost: a\r\n`,
      ];
      const clients = await Promise.all(begun.map(() => HostileClient.connect(instance.port)));
      clients.forEach((client, index) => {
        client.write(begun[index]!);
      });
      await eventually(() => expect(clients.filter(({ gone }) => !gone)).to.deep.equal([]), { timeoutMs: 40_000 });
    });

    for (const [title, head] of [
      ['of a poll', (sid: string) => `GET /socket.io/?EIO=4&transport=polling&sid=${sid}`],
      ['of packets', (sid: string) => `POST /socket.io/?EIO=4&transport=polling&sid=${sid}`],
      ['of a request', () => 'POST /api/tasks'],
      ['of a request without a key', () => 'GET /api/ws/health'],
    ] as const) {
      for (const length of ['Content-Length: 9000000000', 'Transfer-Encoding: chunked']) {
        group.add(`with the body ${title} are read no further (${length})`, async () => {
          const opened = await fetch(`${instance.url}/socket.io/?EIO=4&transport=polling`);
          const { sid } = JSON.parse((await opened.text()).slice(1)) as { sid: string };
          const client = await HostileClient.connect(instance.port);
          const lines = [`${head(sid)} HTTP/1.1`, 'Host: a', `X-Api-Key: ${scene.serviceKey}`, length];
          client.write([...lines, 'Content-Type: application/json', '', ''].join('\r\n'));
          const chunk = `${' '.repeat(65_535)}\n`;
          const bytes = length.startsWith('T') ? `${chunk.length.toString(16)}\r\n${chunk}\r\n` : chunk;
          await Promise.race([client.flood(Buffer.from(bytes), FLOOD_BYTES), client.stuck()]);
          client.end();
        });
      }
    }

    group.tests();
  });

  describe('that read nothing of what they are answered', () => {
    const group = new Group(growth);
    const many = (frame: Buffer): Buffer => Buffer.concat(Array<Buffer>(Math.ceil(65_536 / frame.length)).fill(frame));

    async function silentPlain(): Promise<HostileClient> {
      const client = await HostileClient.upgrade(instance.port, `${NAMESPACE}?api_key=${key}`);
      await eventually(() => expect(client.received).to.contain('101 Switching'));
      client.write(clientFrame('{"type":"PING"}'));
      await eventually(() => expect(client.received).to.contain('PONG'));
      client.stopReading();
      return client;
    }

    async function silentEngine(enter: boolean): Promise<HostileClient> {
      const client = await HostileClient.upgrade(instance.port, ENGINE);
      await eventually(() => expect(client.received).to.contain('"sid"'));
      if (enter) {
        client.write(clientFrame(`40${NAMESPACE},{"api_key":"${key}"}`));
        await eventually(() => expect(client.received).to.contain(`40${NAMESPACE},{"sid"`));
      }
      client.stopReading();
      return client;
    }

    const attacks: ReadonlyArray<readonly [string, () => Promise<HostileClient>, Buffer]> = [
      ['on the plain wire', () => silentPlain(), clientFrame('{"type":"PING"}')],
      ['to pings of the plain wire', () => silentPlain(), clientFrame('x'.repeat(125), 'ping')],
      ['on Socket.IO', () => silentEngine(true), clientFrame(`42${NAMESPACE},["PING"]`)],
      ['to pings of Socket.IO', () => silentEngine(true), clientFrame('x'.repeat(125), 'ping')],
      ['when a namespace is refused', () => silentEngine(false), clientFrame(`40/${'x'.repeat(1_000)},`)],
      [
        'when large namespaces are refused',
        () => silentEngine(false),
        Buffer.concat([clientFrame(`40/${'x'.repeat(30_000)},`), clientFrame('3')]),
      ],
      ['when the key is wrong', () => silentEngine(false), clientFrame(`40${NAMESPACE},{"api_key":"wrong"}`)],
      ['when no namespace is asked for', () => silentEngine(false), clientFrame('40')],
      [
        'when a second namespace is refused',
        () => silentEngine(true),
        Buffer.concat([clientFrame(`40/${'x'.repeat(1_000)},`), clientFrame('3')]),
      ],
    ];
    for (const [title, open, frame] of attacks) {
      group.add(`${title} are cut off`, async () => {
        const client = await open();
        await client.flood(many(frame), FLOOD_BYTES);
        await eventually(
          () => {
            // Who reads nothing learns of the end by writing only.
            client.write(frame);
            expect(client.gone).to.equal(true);
          },
          { timeoutMs: 40_000, intervalMs: 100 },
        );
      });
    }

    group.add('as acknowledgements, and seem alive, are closed', async () => {
      const client = await silentEngine(true);
      const frames = Buffer.concat([clientFrame(`42${NAMESPACE},1["PING"]`), clientFrame('3')]);
      await client.flood(many(frames), FLOOD_BYTES);
      client.end();
    });

    group.tests();
  });
});
