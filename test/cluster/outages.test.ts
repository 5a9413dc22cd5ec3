import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { Redis } from 'ioredis';
import WebSocket from 'ws';
import { Account } from '../support/account.js';
import { eventually } from '../support/eventually.js';
import { Instance } from '../support/instance.js';
import { POSTGRES_PROGRAMS, type PostgresServer, startPostgres } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { REDIS_PROGRAMS, type RedisServer, startRedis } from '../support/redis.js';
import { RestWrites, Scene } from '../support/scene.js';
import { Subscriber } from '../support/subscriber.js';
import { random, Writer, writeAll } from '../support/writers.js';

const LONG_LEASES = new URL('../support/long-leases.js', import.meta.url).href;

describeWith([...POSTGRES_PROGRAMS, ...REDIS_PROGRAMS], 'an outage', function () {
  this.timeout(120_000);
  let postgres: PostgresServer;
  let redis: RedisServer;
  let env: Record<string, string>;
  let scene: Scene;
  let instances: Instance[];
  let subscribers: Subscriber[];

  beforeEach(async () => {
    [postgres, redis] = await Promise.all([startPostgres(), startRedis()]);
    const databaseUrl = await postgres.createDatabase();
    scene = await Scene.make(databaseUrl, { users: 2, jobsPerUser: 2 });
    env = { DATABASE_URL: databaseUrl, REDIS_URL: redis.url, API_KEY_CACHE_MS: '60000' };
    instances = await Promise.all([Instance.start({ env, workers: 1 }), Instance.start({ env, workers: 1 })]);
    subscribers = [];
  });

  afterEach(async () => {
    for (const subscriber of subscribers) {
      subscriber.close();
    }
    await Promise.all(instances.map((instance) => instance.kill()));
    await scene?.close();
    await Promise.all([postgres.stop(), redis.stop()]);
  });

  /** A client of each wire on each instance, in all rooms of a user. */
  async function subscribe(): Promise<void> {
    for (const { url } of instances) {
      for (const wire of ['websocket', 'socket.io'] as const) {
        const rooms = [
          'user:user_1',
          ...scene.jobs.filter(({ userId }) => userId === 'user_1').map(({ jobId }) => `job:${jobId}`),
        ];
        subscribers.push(new Subscriber(wire, url, scene.keys.get('user_1')!, rooms));
      }
    }
    await eventually(() => expect(subscribers.every(({ live }) => live)).to.equal(true), { timeoutMs: 30_000 });
  }

  const write = (count: number, seed: number): Promise<unknown> => {
    const writes = new RestWrites(() => instances.map(({ url }) => url), scene.serviceKey);
    const jobs = scene.jobs.filter(({ userId }) => userId === 'user_1');
    return writeAll([new Writer(writes, jobs, random(seed))], count);
  };

  const everybodyHasEverything = async (): Promise<void> => {
    const account = new Account(scene.db);
    for (const subscriber of subscribers) {
      await account.settle(subscriber);
      await account.compareState(subscriber);
    }
  };

  /**
   * A client that is let in stays, in `sockets`.
   * @returns the code of the refusal, undefined when it may stay
   */
  async function connect(instance: Instance, sockets: WebSocket[]): Promise<string | undefined> {
    const socket = new WebSocket(`${instance.url.replace('http', 'ws')}/api/ws/tasks`, {
      headers: { 'x-api-key': scene.keys.get('user_1')! },
    });
    socket.once('open', () => socket.send('{"type":"PING"}'));
    const [text] = (await once(socket, 'message')) as [Buffer];
    const { type, data } = JSON.parse(String(text)) as { type: string; data: { code?: string } };
    if (type === 'ERROR') {
      return data.code;
    }
    sockets.push(socket);
    return undefined;
  }

  const statsOf = async (instance: Instance) => (await instance.get('/api/ws/stats')).body.data;

  const health = async (): Promise<unknown[]> =>
    Promise.all(
      instances.map(async (instance) => {
        const { status, body } = await instance.get('/api/ws/health');
        return [status, body.status, body.components];
      }),
    );

  for (const [name, begin, end] of [
    ['was killed', () => redis.kill(), () => redis.launch()],
    ['hangs', async () => redis.pause(), async () => redis.resume()],
  ] as const) {
    it(`of Redis, which ${name}, is late events and a word in the health, no more`, async () => {
      await subscribe();
      await write(20, 1);
      await begin();
      const down = { database: 'up', broker: 'down' };
      await eventually(async () => expect(await health()).to.deep.equal(Array(2).fill([200, 'degraded', down])), {
        timeoutMs: 20_000,
      });
      await write(20, 2);
      await everybodyHasEverything();
      // Whoever comes now is let in, and served.
      await subscribe();
      await write(20, 3);
      await everybodyHasEverything();
      await end();
      const up = { database: 'up', broker: 'up' };
      await eventually(async () => expect(await health()).to.deep.equal(Array(2).fill([200, 'healthy', up])), {
        timeoutMs: 20_000,
      });
      await write(20, 4);
      await everybodyHasEverything();
      expect(subscribers.map(({ connections }) => connections)).to.deep.equal(Array(8).fill(1));
    });
  }

  it('of Redis keeps no worker from starting, nor from being replaced; events are live as soon as it is there', async () => {
    await redis.kill();
    const never = String(3_600_000);
    const late = await Instance.start({ env: { ...env, RECONCILE_MS: never, RECONCILE_IDLE_MS: never }, workers: 2 });
    instances.push(late);
    const { workers } = late;
    const first = [...workers];
    await subscribe();
    // Longer than a command of Redis may take.
    await sleep(3_000);
    late.signal('SIGHUP');
    await eventually(() => expect(late.log.map(({ message }) => message)).to.include('workers replaced'), {
      timeoutMs: 30_000,
    });
    await sleep(3_000);
    await eventually(() => expect(subscribers.every(({ live }) => live)).to.equal(true), { timeoutMs: 30_000 });
    expect(workers.size).to.equal(2);
    expect([...workers].filter((worker) => first.includes(worker))).to.deep.equal([]);
    await redis.launch();
    const up = { database: 'up', broker: 'up' };
    await eventually(async () => expect(await health()).to.deep.equal(Array(3).fill([200, 'healthy', up])), {
      timeoutMs: 20_000,
    });
    // The new instance does not look into the log by itself: only Redis can bring these.
    await write(20, 1);
    await everybodyHasEverything();
    const messages = late.log.map(({ message }) => message);
    expect(messages.filter((message) => /unexpected/.test(message))).to.deep.equal([]);
  });

  it('of Redis in which it forgot everything leaves places of addresses and statistics as they are by then', async () => {
    const limited = { ...env, REDIS_PREFIX: 'limited', MAX_CONNECTIONS_PER_IP: '4' };
    const [one, other] = await Promise.all([
      Instance.start({ env: limited, workers: 1 }),
      Instance.start({ env: limited, workers: 1 }),
    ]);
    instances.push(one, other);
    const [ofOne, ofOther, extra]: WebSocket[][] = [[], [], []];
    /** Holds that both come to refuse, and count those that are there and no more. */
    const full = async (): Promise<void> => {
      for (const instance of [one, other]) {
        await eventually(
          async () => {
            const refusal = await connect(instance, extra!);
            for (const socket of extra!.splice(0)) {
              socket.terminate();
            }
            expect(refusal).to.equal('RATE_LIMIT_EXCEEDED');
          },
          { timeoutMs: 20_000, intervalMs: 100 },
        );
        await eventually(
          async () => expect(await statsOf(instance)).to.deep.include({ total_clients: 4, nodes: 2, partial: false }),
          { timeoutMs: 20_000, intervalMs: 100 },
        );
      }
    };
    const brokers = async (): Promise<unknown[]> =>
      Promise.all([one, other].map(async (instance) => (await instance.get('/api/ws/health')).body.components.broker));
    for (const [instance, sockets] of [
      [one, ofOne!],
      [other, ofOther!],
    ] as const) {
      expect([await connect(instance, sockets), await connect(instance, sockets)]).to.deep.equal([
        undefined,
        undefined,
      ]);
    }
    await full();

    await redis.kill();
    await eventually(async () => expect(await brokers()).to.deep.equal(['down', 'down']), { timeoutMs: 20_000 });
    ofOne!.pop()!.terminate();
    expect(await connect(other, ofOther!)).to.equal(undefined);
    await redis.launch();
    await eventually(async () => expect(await brokers()).to.deep.equal(['up', 'up']), { timeoutMs: 20_000 });
    await full();
    ofOther!.pop()!.terminate();
    await eventually(async () => expect(await connect(one, ofOne!)).to.equal(undefined));
    await full();
    for (const socket of [...ofOne!, ...ofOther!]) {
      expect(socket.readyState).to.equal(WebSocket.OPEN);
      socket.terminate();
    }
  });

  it('of Redis is not what a worker sees that was held up itself', async () => {
    const never = String(3_600_000);
    const late = await Instance.start({
      env: { ...env, RECONCILE_MS: never, RECONCILE_IDLE_MS: never },
      workers: 1,
      preload: new URL('../support/held-up-worker.js', import.meta.url).href,
    });
    const others = instances.map(({ url }) => url);
    instances.push(late);
    const admin = new Redis(redis.url);
    const connections = async (): Promise<string[]> =>
      [...String(await admin.client('LIST')).matchAll(/^id=(\d+) /gm)].map((match) => match[1]!).sort();
    const said = () => late.log.map(({ message }) => message);
    try {
      await subscribe();
      const up = { database: 'up', broker: 'up' };
      await eventually(async () => expect(await health()).to.deep.equal(Array(3).fill([200, 'healthy', up])));
      const before = await connections();
      process.kill([...late.workers][0]!, 'SIGUSR2');
      await eventually(() => expect(said()).to.include('held up'));
      const jobs = scene.jobs.filter(({ userId }) => userId === 'user_1');
      await writeAll([new Writer(new RestWrites(() => others, scene.serviceKey), jobs, random(1))], 20);
      await eventually(() => expect(said()).to.include('going on'));
      // Nor does it look into the log: Redis has kept these for it.
      await everybodyHasEverything();
      await write(20, 2);
      await everybodyHasEverything();
      expect(await health()).to.deep.equal(Array(3).fill([200, 'healthy', up]));
      expect(late.log.filter(({ level }) => level === 'warn' || level === 'error')).to.deep.equal([]);
      expect(await connections()).to.deep.equal(before);
      expect(subscribers.map((one) => one.connections)).to.deep.equal(Array(6).fill(1));
    } finally {
      admin.disconnect();
    }
  });

  it('of Postgres refuses writes with 503 and subscriptions with a code, and closes nothing', async () => {
    await subscribe();
    await write(20, 1);
    const [instance] = instances as [Instance, Instance];
    const socket = new WebSocket(
      `${instance.url.replace('http', 'ws')}/api/ws/tasks?api_key=${scene.keys.get('user_2')}`,
    );
    const answers: Array<{ type: string; data: Record<string, unknown> }> = [];
    socket.on('message', (text) => answers.push(JSON.parse(String(text))));
    await once(socket, 'open');
    // Its key has been looked up when it is answered.
    socket.send(JSON.stringify({ type: 'PING' }));
    await eventually(() => expect(answers.splice(0)).to.have.nested.property('[0].type', 'PONG'));

    await postgres.halt('immediate');
    const write1 = await fetch(`${instance.url}/api/jobs`, {
      method: 'POST',
      headers: { 'x-api-key': scene.serviceKey, 'content-type': 'application/json' },
      body: JSON.stringify({ job_id: '77', user_id: 'user_1' }),
    });
    expect(write1.status).to.equal(503);
    expect(((await write1.json()) as { error: { code: string } }).error.code).to.equal('DATABASE_UNAVAILABLE');
    for (const path of [`/api/tasks/job/${scene.jobs[0]!.jobId}`, '/api/tasks/1']) {
      const { status, body } = await instance.get(path, { 'x-api-key': scene.serviceKey });
      expect([path, status, body.error.code]).to.deep.equal([path, 503, 'DATABASE_UNAVAILABLE']);
    }
    socket.send(JSON.stringify({ type: 'SUBSCRIBE', data: { room: 'user:user_2' }, request_id: 'r' }));
    await eventually(() => expect(answers).to.have.length(1), { timeoutMs: 20_000 });
    expect(answers[0]).to.have.property('type', 'ERROR');
    expect(answers[0]!.data).to.have.property('code', 'DATABASE_UNAVAILABLE');
    const down = { database: 'down', broker: 'up' };
    // It stays in its balancer: connections live on, and there is no better instance.
    await eventually(async () => expect(await health()).to.deep.equal(Array(2).fill([200, 'degraded', down])), {
      timeoutMs: 20_000,
    });

    await postgres.start();
    await eventually(() => write(1, 2), { timeoutMs: 30_000 });
    socket.send(JSON.stringify({ type: 'SUBSCRIBE', data: { room: 'user:user_2' } }));
    await eventually(() => expect(answers.at(-1)).to.have.property('type', 'SUCCESS'), { timeoutMs: 20_000 });
    await write(20, 3);
    await everybodyHasEverything();
    expect(subscribers.map(({ connections }) => connections)).to.deep.equal(Array(4).fill(1));
    expect(socket.readyState).to.equal(WebSocket.OPEN);
    socket.terminate();
  });

  it('of Postgres is a line of the log of each instance whose health is asked for, though nobody else asks for anything', async () => {
    const statuses = async (): Promise<unknown[]> =>
      (await Promise.all(instances.map((instance) => instance.get('/api/ws/health')))).map(({ body }) => body.status);
    const lines = (text: string) => instances.map(({ log }) => log.filter(({ message }) => message === text));
    await postgres.halt('immediate');
    await eventually(async () => expect(await statuses()).to.deep.equal(['degraded', 'degraded']), {
      timeoutMs: 20_000,
    });
    await eventually(() => {
      for (const told of lines('the database does not serve as it should')) {
        expect(told).to.have.length(1);
        expect(told[0]).to.include({ level: 'warn', status: 'down' });
        expect(told[0]!['reason']).to.match(/^[a-z]+: ./);
      }
    });
    await postgres.start();
    await eventually(
      async () => {
        expect(await statuses()).to.deep.equal(['healthy', 'healthy']);
        expect(lines('the database serves again').map(({ length }) => length > 0)).to.deep.equal([true, true]);
      },
      { timeoutMs: 30_000 },
    );
  });

  it('of Postgres at the start is waited out', async () => {
    await postgres.halt('immediate');
    const late = await Instance.launch({ env, workers: 1 });
    instances.push(late);
    await eventually(() => expect(late.log.map(({ message }) => message)).to.include('waiting for the database'), {
      timeoutMs: 30_000,
    });
    // Its port is closed until it can serve, so a balancer asks another instance.
    const answer = await late.get('/api/ws/health').then(
      () => 'answered',
      (error: Error) => (error.cause as NodeJS.ErrnoException).code,
    );
    expect(answer).to.equal('ECONNREFUSED');
    await postgres.start();
    await late.ready(1);
    await subscribe();
    await write(20, 1);
    await everybodyHasEverything();
  });

  /** An instance of two workers whose leases do not end while the test runs, and connections that take all places of an address. */
  async function fullHouse(): Promise<{ instance: Instance; open: () => number; fill: () => Promise<void> }> {
    const instance = await Instance.start({
      env: { ...env, REDIS_PREFIX: 'alone', MAX_CONNECTIONS_PER_IP: '4', DRAIN_SECONDS: '0' },
      workers: 2,
      preload: LONG_LEASES,
    });
    instances.push(instance);
    const sockets: WebSocket[] = [];
    const open = () => sockets.filter(({ readyState }) => readyState === WebSocket.OPEN).length;
    const fill = async (): Promise<void> => {
      while (open() < 4) {
        await eventually(async () => expect(await connect(instance, sockets)).to.equal(undefined));
      }
      expect(await connect(instance, sockets)).to.equal('RATE_LIMIT_EXCEEDED');
      await eventually(async () =>
        expect(await statsOf(instance)).to.deep.include({ total_clients: 4, nodes: 2, partial: false }),
      );
    };
    await fill();
    return { instance, open, fill };
  }

  it('of a worker, killed, gives back at once what its clients held, and does not wait for its lease to end', async () => {
    const { instance, open, fill } = await fullHouse();
    instance.killWorker();
    await eventually(() => expect(open()).to.be.lessThan(4));
    await instance.ready(2);
    await fill();
  });

  it('of all workers of an instance, killed at the same time, gives back what their clients held as well', async () => {
    const { instance, open, fill } = await fullHouse();
    instance.killWorker();
    instance.killWorker();
    await eventually(() => expect(open()).to.equal(0));
    await instance.ready(2);
    await fill();
  });

  it('of a worker that is killed because it drained for too long gives back what its clients held as well', async () => {
    const { instance, open, fill } = await fullHouse();
    const [hung] = [...instance.workers] as [number];
    process.kill(hung, 'SIGSTOP');
    instance.signal('SIGHUP');
    await eventually(
      () => {
        const ends = instance.log.filter(({ message, signal }) => message === 'worker ended' && signal === 'SIGKILL');
        expect(ends.map(({ worker }) => worker)).to.deep.equal([hung]);
      },
      { timeoutMs: 60_000 },
    );
    const told = instance.log.filter(({ message }) => message === 'worker has not drained in time: it is killed');
    expect(told.map(({ worker, level }) => [worker, level])).to.deep.equal([[hung, 'warn']]);
    await eventually(() => expect(instance.log.map(({ message }) => message)).to.include('workers replaced'), {
      timeoutMs: 30_000,
    });
    await eventually(() => expect(open()).to.equal(0));
    await fill();
  });

  it('of a part of Redis is told: by the health, and once by each worker', async () => {
    const health = async (): Promise<unknown[]> =>
      Promise.all(
        instances.map(async (instance) => {
          const { status, body } = await instance.get('/api/ws/health');
          return [status, body.status, body.components.broker, body.lost];
        }),
      );
    const all = (...state: unknown[]): unknown[] => instances.map(() => state);
    await eventually(async () => expect(await health()).to.deep.equal(all(200, 'healthy', 'up', undefined)));
    const admin = new Redis(redis.url);
    admin.on('error', () => {});
    try {
      await subscribe();
      await admin.config('SET', 'maxmemory', '1');
      const lost = ['limits are counted by each worker'];
      await eventually(async () => expect(await health()).to.deep.equal(all(200, 'degraded', 'degraded', lost)), {
        timeoutMs: 20_000,
      });
      await write(50, 9);
      await everybodyHasEverything();
      await admin.config('SET', 'maxmemory', '0');
      await eventually(async () => expect(await health()).to.deep.equal(all(200, 'healthy', 'up', undefined)), {
        timeoutMs: 20_000,
      });
    } finally {
      admin.disconnect();
    }
    for (const { log } of instances) {
      const lines = log.filter(({ message }) => message.startsWith('broker: limits'));
      expect(lines.map(({ message, level, code }) => [level, message, code])).to.deep.equal([
        ['warn', 'broker: limits are counted by each worker', 'OOM'],
        ['info', 'broker: limits are counted over all workers', undefined],
      ]);
    }
  });

  it('of the right to use Redis, whose password was changed, is told once, and writes go on through the log', async () => {
    const admin = new Redis(redis.url);
    admin.on('error', () => {});
    try {
      await admin.call('ACL', 'SETUSER', 'tester', 'on', '>tester', '+@all', '~*', '&*');
      await admin.auth('tester', 'tester');
      await admin.config('SET', 'requirepass', 'right');
      // The two of before were let in when no password was wanted. This one has the right one.
      const late = await Instance.start({ env: { ...env, REDIS_PASSWORD: 'right' }, workers: 2 });
      instances.push(late);
      const health = async (): Promise<unknown[]> =>
        Promise.all(
          instances.map(async (instance) => {
            const { status, body } = await instance.get('/api/ws/health');
            return [status, body.status, body.components, body.lost];
          }),
        );
      const well = [200, 'healthy', { database: 'up', broker: 'up' }, undefined];
      const lost = ['events between instances come late', 'limits are counted by each worker'];
      const ill = [200, 'degraded', { database: 'up', broker: 'down' }, lost];
      const comesTo = (expected: unknown[]): Promise<unknown> =>
        eventually(async () => expect(await health()).to.deep.equal(expected), { timeoutMs: 20_000 });
      await comesTo([well, well, well]);
      await subscribe();
      await write(20, 1);
      await everybodyHasEverything();

      await admin.config('SET', 'requirepass', 'rotated');
      await write(20, 2);
      await comesTo([well, well, well]);
      for (const type of ['normal', 'pubsub']) {
        await admin.call('CLIENT', 'KILL', 'TYPE', type, 'SKIPME', 'yes');
      }
      await comesTo([ill, ill, ill]);
      await write(20, 3);
      await everybodyHasEverything();
      // Whoever comes now is let in, and served.
      await subscribe();
      await write(20, 4);
      await everybodyHasEverything();
      // A worker that starts now serves as well.
      late.killWorker();
      await late.ready(2);
      await write(20, 5);
      await everybodyHasEverything();

      await admin.config('SET', 'requirepass', 'right');
      await comesTo([ill, ill, well]);
      await write(20, 6);
      await everybodyHasEverything();
      await admin.config('SET', 'requirepass', '');
      await comesTo([well, well, well]);
      await write(20, 7);
      await everybodyHasEverything();

      for (const [index, { log }] of instances.entries()) {
        const code = index === 2 ? 'WRONGPASS' : 'NOAUTH';
        const warnings = log.filter(({ message, level }) => message.startsWith('broker: ') && level === 'warn');
        expect(new Set(warnings.map((line) => line['code'])), JSON.stringify(warnings)).to.include(code);
        for (const pid of new Set(warnings.map((line) => line['pid']))) {
          for (const part of lost) {
            const lines = warnings.filter((line) => line['pid'] === pid && line.message === `broker: ${part}`);
            const codes = lines.map((line) => line['code']);
            expect(codes.filter((one) => one === code)).to.have.length(1);
            expect(new Set(codes).size, JSON.stringify(lines)).to.equal(codes.length);
            expect(lines.find((line) => line['code'] === code)!['reason']).to.match(new RegExp(`^${code}`));
          }
        }
        // Nothing else fails, line after line. That events are not published is told now and then.
        const others = log.filter(({ message, level }) => level !== 'info' && !message.startsWith('broker: '));
        const expected = /^(?:worker ended|events were committed but not published)/;
        expect(others.filter(({ message }) => !expected.test(message))).to.deep.equal([]);
      }
    } finally {
      admin.disconnect();
    }
  });
});
