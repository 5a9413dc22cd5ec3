import { readFileSync } from 'node:fs';
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import { expect } from 'chai';
import { Redis } from 'ioredis';
import { Server, type ServerOptions } from 'socket.io';
import { silentLogger } from '../../src/base/logger.js';
import type { PrimaryChannel, ToPrimary, ToWorker, WorkerChannel } from '../../src/base/process-messages.js';
import type { Broker } from '../../src/broker/broker.js';
import { LocalBroker } from '../../src/broker/local/local-broker.js';
import { LocalPrimary } from '../../src/broker/local/local-primary.js';
import { RedisBroker } from '../../src/broker/redis/redis-broker.js';
import { MAX_WAITING, redisClient, writeOnceATurn } from '../../src/broker/redis/redis-client.js';
import { eventually } from '../support/eventually.js';
import { describeWith } from '../support/programs.js';
import { REDIS_PROGRAMS, type RedisServer, startRedis } from '../support/redis.js';
import { crash, keepingLogger, type LogLine } from '../support/redis-broker.js';
import { type BrokerVariant, brokerContract } from './broker.suite.js';

/** Both ends of a way between a worker and the primary, with copies on the way as over a process channel. */
function linkPair(): { worker: WorkerChannel; primary: PrimaryChannel; cut(): void } {
  let cut = false;
  const closers: Array<() => void> = [];
  const end = <Out, In>(): {
    link: PrimaryChannel & WorkerChannel;
    hear(message: In): void;
    far?: (message: Out) => void;
  } => {
    const listeners: Array<(message: In) => void> = [];
    const side = {
      far: undefined as ((message: Out) => void) | undefined,
      hear: (message: In) => {
        for (const listener of listeners) {
          listener(message);
        }
      },
      link: {
        send(message: Out) {
          if (cut) {
            throw new Error('cut');
          }
          const copy = structuredClone(message);
          setImmediate(() => !cut && side.far?.(copy));
        },
        onMessage: (listener: (message: In) => void) => listeners.push(listener),
        onClose: (listener: () => void) => closers.push(listener),
      },
    };
    return side as never;
  };
  const worker = end<ToPrimary, ToWorker>();
  const primary = end<ToWorker, ToPrimary>();
  worker.far = primary.hear;
  primary.far = worker.hear;
  return {
    worker: worker.link,
    primary: primary.link,
    cut() {
      cut = true;
      for (const close of closers) {
        close();
      }
    },
  };
}

async function localVariant(): Promise<BrokerVariant> {
  const primary = new LocalPrimary();
  const cuts = new Map<Broker, () => void>();
  return {
    node() {
      const link = linkPair();
      primary.attach(link.primary);
      const broker = new LocalBroker(link.worker, () => undefined, silentLogger);
      cuts.set(broker, link.cut);
      return broker;
    },
    kill: (broker) => cuts.get(broker)!(),
    async close() {},
  };
}

describe('local broker', () => brokerContract(localVariant));

/** Holds that a node comes to get `count` of an address' `limit` places, and no more. Gives them back. */
async function expectPlaces(node: Broker, address: string, { limit, count }: { limit: number; count: number }) {
  await eventually(
    async () => {
      const taken: Array<() => void> = [];
      for (let place: (() => void) | undefined; taken.length <= limit; taken.push(place)) {
        place = await node.acquireConnection(address, limit);
        if (place === undefined) {
          break;
        }
      }
      for (const give of taken) {
        give();
      }
      expect(taken, address).to.have.length(count);
    },
    { timeoutMs: 10_000, intervalMs: 100 },
  );
}

describeWith(REDIS_PROGRAMS, 'redis broker', () => {
  let redis: RedisServer;
  let prefixes = 0;

  before(async () => {
    redis = await startRedis();
  });

  after(() => redis?.stop());

  const options = (prefix: string) => ({
    url: redis.url,
    prefix,
    logger: silentLogger,
    leaseMs: 1_500,
    heartbeatMs: 100,
  });

  async function redisVariant(): Promise<BrokerVariant> {
    prefixes += 1;
    const prefix = `contract-${prefixes}`;
    return {
      node: () => new RedisBroker(options(prefix)),
      kill: (broker) => crash(broker as RedisBroker),
      async close() {},
    };
  }

  brokerContract(redisVariant);

  describe('in a process that is held up for longer than a command may take', function () {
    this.timeout(30_000);

    for (const [state, reach] of [
      ['have been sent', () => turn()],
      ['are about to be sent', () => undefined],
    ] as const) {
      it(`does not take the server for dead (commands ${state})`, async () => {
        const log: string[] = [];
        const { heartbeatMs, ...others } = options('busy');
        const broker = new RedisBroker({
          ...others,
          logger: { ...silentLogger, warn: (message: string) => log.push(message) } as never,
        });
        let downs = 0;
        broker.onDown(() => {
          downs += 1;
        });
        const admin = new Redis(redis.url);
        const connections = async (): Promise<string[]> => {
          const clients = String(await admin.client('LIST'));
          return [...clients.matchAll(/^id=(\d+) /gm)].map((match) => match[1]!).sort();
        };
        try {
          await broker.start();
          await eventually(() => expect(broker.up).to.equal(true));
          const before = await connections();
          const heard: string[] = [];
          const work = Promise.all([
            broker.publish('a', Buffer.from('one')),
            broker.subscribe('b', (batch) => heard.push(...batch.map(String))),
            broker.acquireConnection('10.2.0.1', 1),
          ]);
          await reach();
          Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 3_000);
          await work;
          await broker.publish('b', Buffer.from('two'));
          await eventually(() => expect(heard).to.deep.equal(['two']));
          expect(broker.up).to.equal(true);
          expect(downs).to.equal(0);
          expect(log).to.deep.equal([]);
          expect(await connections()).to.deep.equal(before);
        } finally {
          await broker.stop();
          admin.disconnect();
        }
      });
    }
  });

  describe('without its server', function () {
    this.timeout(30_000);
    let broker: RedisBroker;
    let ups: number;

    beforeEach(async () => {
      broker = new RedisBroker(options('outage'));
      ups = 0;
      broker.onUp(() => {
        ups += 1;
      });
      await broker.start();
    });

    afterEach(async () => {
      redis.resume();
      await broker.stop();
    });

    const outages: Array<[string, () => Promise<void> | void, () => Promise<void> | void]> = [
      ['killed', () => redis.kill(), () => redis.launch()],
      ['stopped in its tracks', () => redis.pause(), () => redis.resume()],
    ];
    for (const [name, begin, end] of outages) {
      it(`goes on by itself, and hears everything again when it is back (${name})`, async () => {
        const heard: string[] = [];
        await broker.subscribe('a', (batch) => heard.push(...batch.map(String)));
        await eventually(() => expect(broker.up).to.equal(true));
        const before = ups;
        await begin();
        await eventually(() => expect(broker.up).to.equal(false), { timeoutMs: 10_000 });
        expect(await broker.publish('a', Buffer.from('lost')).catch((error: unknown) => error)).to.be.instanceOf(Error);
        expect(await broker.consume('key-of-an-outage', 1)).to.include({ allowed: true });
        expect(await broker.consume('key-of-an-outage', 1)).to.include({ allowed: false });
        const place = await broker.acquireConnection('10.9.9.9', 1);
        expect(place).to.be.a('function');
        expect(await broker.acquireConnection('10.9.9.9', 1)).to.equal(undefined);
        // It takes effect when the server is back.
        await broker.subscribe('b', (batch) => heard.push(...batch.map(String)));
        await end();
        await eventually(() => expect(ups).to.equal(before + 1), { timeoutMs: 10_000 });
        await broker.publish('a', Buffer.from('one'));
        await broker.publish('b', Buffer.from('two'));
        await eventually(() => expect(heard).to.include.members(['one', 'two']));
        place!();
      });
    }

    it('has a bounded number of commands wait while it is silent', async () => {
      const client = redisClient({ host: '127.0.0.1', port: redis.port });
      writeOnceATurn(client);
      await client.connect();
      let waiting = 0;
      let most = 0;
      /** Goes on with commands at a rate that no server could stand, until `done`. */
      const press = async (done: () => boolean): Promise<void> => {
        while (!done()) {
          for (let count = 0; count < 1_000; count += 1) {
            waiting += 1;
            const settled = (): void => {
              waiting -= 1;
            };
            client.publish('elsewhere', Buffer.alloc(100)).then(settled, settled);
          }
          await turn();
          most = Math.max(most, waiting);
        }
      };
      try {
        redis.pause();
        await press(() => client.status !== 'ready');
        expect(most).to.be.within(1_000, MAX_WAITING);
        most = 0;
        // A server that is stopped takes connections too, and says nothing on them.
        let connects = 0;
        client.on('connect', () => {
          connects += 1;
        });
        await press(() => connects > 1);
        expect(most).to.equal(0);
        redis.resume();
        await eventually(() => expect(client.status).to.equal('ready'), { timeoutMs: 10_000 });
        expect(await client.publish('elsewhere', '')).to.equal(0);
        expect(waiting).to.equal(0);
      } finally {
        client.disconnect();
      }
    });

    it('writes its lease and the places of addresses again, as they are by then', async () => {
      const other = new RedisBroker(options('outage'));
      const admin = new Redis(redis.url);
      admin.on('error', () => {});
      await other.start();
      try {
        const nodes = [broker.nodeId, other.nodeId];
        const forgetting: Array<[string, () => Promise<unknown>, () => Promise<unknown>]> = [
          ['10.1.0.1', () => redis.kill(), () => redis.launch()],
          ['10.1.0.2', async () => redis.pause(), async () => redis.resume()],
        ];
        for (const [address, begin, end] of forgetting) {
          await eventually(async () => expect(await other.liveNodes()).to.have.members(nodes));
          const places = [await broker.acquireConnection(address, 3), await broker.acquireConnection(address, 3)];
          places.push(await other.acquireConnection(address, 3));
          expect(await other.acquireConnection(address, 3), address).to.equal(undefined);
          await begin();
          await eventually(() => expect([broker.up, other.up]).to.deep.equal([false, false]), { timeoutMs: 10_000 });
          places[0]!();
          await end();
          await eventually(() => expect([broker.up, other.up]).to.deep.equal([true, true]), { timeoutMs: 10_000 });
          await expectPlaces(other, address, { limit: 3, count: 1 });
        }
        // A server may forget without an outage that anybody sees.
        const address = '10.1.0.3';
        await broker.acquireConnection(address, 3);
        await broker.acquireConnection(address, 3);
        await admin.flushall();
        await expectPlaces(other, address, { limit: 3, count: 1 });
        await eventually(async () => expect(await other.liveNodes()).to.have.members(nodes));
      } finally {
        admin.disconnect();
        await other.stop();
      }
    });

    it('starts though the server is not there', async () => {
      await redis.kill();
      const late = new RedisBroker(options('late'));
      await late.start();
      expect(late.up).to.equal(false);
      await redis.launch();
      await eventually(() => expect(late.up).to.equal(true), { timeoutMs: 10_000 });
      await late.stop();
    });

    it('needs no more of the server than deploy/README.md asks for', async () => {
      const readme = readFileSync(new URL('../../../deploy/README.md', import.meta.url), 'utf8');
      const rule = /ACL SETUSER (taskwire on >\S+ .+)/.exec(readme)![1]!.replaceAll('"', '').split(' ');
      const admin = new Redis(redis.url);
      await admin.call('ACL', 'SETUSER', ...rule);
      const log: string[] = [];
      const logger = { ...silentLogger, warn: (message: string, fields: unknown) => log.push(message, String(fields)) };
      const broker = new RedisBroker({
        ...options('taskwire'),
        url: redis.url.replace('//', '//taskwire:secret@'),
        logger: logger as never,
      });
      const server = new Server({ adapter: broker.socketAdapter() as ServerOptions['adapter'] });
      server.of('/api/ws/tasks');
      try {
        await broker.start();
        const heard: string[] = [];
        await broker.subscribe('a', (batch) => heard.push(...batch.map(String)));
        await broker.publish('a', Buffer.from('one'));
        await eventually(() => expect(heard).to.deep.equal(['one']));
        expect(await broker.consume('key', 1)).to.include({ allowed: true, remaining: 0 });
        (await broker.acquireConnection('10.0.0.1', 1))!();
        await eventually(async () => expect(await broker.liveNodes()).to.deep.equal([broker.nodeId]));
        const patterns = ['taskwire:socket.io#/#*', 'taskwire:socket.io#/api/ws/tasks#*'];
        await eventually(async () => expect(await admin.call('PUBSUB', 'NUMPAT')).to.equal(patterns.length));
        expect(await admin.call('ACL', 'LOG')).to.deep.equal([]);
        expect(log).to.deep.equal([]);
      } finally {
        await broker.stop();
        admin.disconnect();
      }
    });

    it('gives Socket.IO an adapter that no outage breaks, from before the first connection on', async () => {
      await redis.kill();
      const unhandled: unknown[] = [];
      const note = (error: unknown): number => unhandled.push(error);
      process.on('unhandledRejection', note);
      const brokers = [new RedisBroker(options('adapter')), new RedisBroker(options('adapter'))];
      const [sender, receiver] = brokers.map(
        (one) => new Server({ adapter: one.socketAdapter() as ServerOptions['adapter'] }),
      ) as [Server, Server];
      let heard = 0;
      receiver.on('hello', () => {
        heard += 1;
      });
      const arrives = async (): Promise<void> => {
        const before = heard;
        await eventually(
          () => {
            sender.serverSideEmit('hello');
            expect(heard).to.be.greaterThan(before);
          },
          { timeoutMs: 15_000, intervalMs: 100 },
        );
      };
      try {
        await Promise.all(brokers.map((one) => one.start()));
        // Longer than a command may take.
        await sleep(2_500);
        await redis.launch();
        await arrives();
        await redis.restart();
        await arrives();
        redis.pause();
        await sleep(2_500);
        redis.resume();
        await arrives();
        await redis.kill();
        await Promise.all(brokers.map((one) => one.stop()));
        await sleep(0);
        expect(unhandled).to.deep.equal([]);
      } finally {
        process.off('unhandledRejection', note);
        await Promise.all(brokers.map((one) => one.stop()));
        await redis.launch();
      }
    });
  });

  describe('refused by its server', function () {
    this.timeout(30_000);
    const ALLOWED = ['~*', 'allchannels', '+@all'];
    let admin: Redis;
    let log: LogLine[];
    let refused: RedisBroker;
    let heard: string[];
    let states: string[];

    const setUser = (...rules: string[]) => admin.call('ACL', 'SETUSER', 'limited', 'on', '>secret', ...rules);
    /** Ids of its connections. */
    const connections = async (): Promise<string[]> =>
      String(await admin.call('CLIENT', 'LIST'))
        .split('\n')
        .filter((line) => line.includes(' user=limited '))
        .map((line) => line.split(' ')[0]!)
        .sort();

    beforeEach(() => {
      admin = new Redis(redis.url);
      heard = [];
      states = [];
      const { logger, lines } = keepingLogger();
      log = lines;
      refused = new RedisBroker({
        ...options('refused'),
        url: redis.url.replace('//', '//limited:secret@'),
        heartbeatMs: 500,
        refusedMs: 20,
        logger,
      });
      refused.onUp(() => states.push('up'));
      refused.onDown(() => states.push('down'));
    });

    afterEach(async () => {
      await refused.stop();
      await admin.call('ACL', 'DELUSER', 'limited');
      admin.disconnect();
    });

    const late = (): LogLine[] => log.filter(({ message }) => message === 'broker: events between instances come late');

    /** Waits until the server has refused so many times: it must be asked more and more rarely, and say so once. */
    async function refusals(count: number, permission: RegExp): Promise<void> {
      const attempts = (): LogLine[] => log.filter(({ message }) => message === 'redis refuses, and is asked again');
      await eventually(() => expect(attempts()).to.have.length.at.least(count));
      for (const [index, { fields }] of attempts().slice(0, count).entries()) {
        expect(fields['reason']).to.match(permission);
        expect(fields['retryMs']).to.equal(20 * 2 ** index);
      }
      expect(refused.up).to.equal(false);
      expect(refused.state.lost).to.include('events between instances come late');
      expect(late()).to.have.length(1);
      expect(late()[0]!.fields).to.include({ code: 'NOPERM' });
      expect(late()[0]!.fields['hint']).to.contain('deploy/README.md');
    }

    async function hears(): Promise<void> {
      await eventually(() => expect(refused.up).to.equal(true));
      await refused.publish('a', Buffer.from('one'));
      await eventually(() => expect(heard).to.include('one'));
      expect(log.at(-1)!.message).to.equal('broker: events between instances come at once');
      expect(refused.state).to.deep.equal({ status: 'up', lost: [] });
    }

    const refusedRules: Array<[string, string[], RegExp]> = [
      ['to subscribe', ['-subscribe'], /^NOPERM.*subscribe/],
      ['its channels', ['resetchannels'], /^NOPERM.*channel/],
    ];
    for (const [what, rules, permission] of refusedRules) {
      it(`${what}, it is down and asks on one connection, more and more rarely`, async () => {
        await setUser(...ALLOWED, ...rules);
        await refused.start();
        await refused.subscribe('a', (batch) => heard.push(...batch.map(String)));
        await refusals(2, permission);
        const before = await connections();
        await refusals(5, permission);
        expect(await connections()).to.deep.equal(before);
        expect(states).to.deep.equal([]);
        await setUser(...ALLOWED);
        await hears();
        expect(states).to.deep.equal(['up']);
      });
    }

    it('channels of Socket.IO too, it asks for those as well when it is allowed them', async () => {
      await setUser(...ALLOWED, 'resetchannels');
      const server = new Server({ adapter: refused.socketAdapter() as ServerOptions['adapter'] });
      server.of('/api/ws/tasks');
      await refused.start();
      await refusals(3, /^NOPERM/);
      expect(await admin.call('PUBSUB', 'NUMPAT')).to.equal(0);
      await setUser(...ALLOWED);
      await eventually(async () => expect(await admin.call('PUBSUB', 'NUMPAT')).to.equal(2));
    });

    it('one channel, it is down: it would not hear everything', async () => {
      await setUser(...ALLOWED, 'resetchannels', '&refused:heartbeat:*');
      await refused.start();
      await eventually(() => expect(refused.up).to.equal(true));
      await refused.subscribe('a', (batch) => heard.push(...batch.map(String)));
      await refusals(3, /^NOPERM/);
      await setUser(...ALLOWED);
      await hears();
      expect(states).to.deep.equal(['up', 'down', 'up']);
    });

    it('to publish, it is down: it cannot be heard', async () => {
      await setUser(...ALLOWED);
      await refused.start();
      await refused.subscribe('a', (batch) => heard.push(...batch.map(String)));
      await eventually(() => expect(refused.up).to.equal(true));
      await setUser('-publish');
      await refusals(3, /^NOPERM.*publish/);
      await setUser(...ALLOWED);
      await hears();
      expect(states).to.deep.equal(['up', 'down', 'up']);
    });
  });
});
