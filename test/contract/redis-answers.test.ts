import { expect } from 'chai';
import type { Redis } from 'ioredis';
import { Server, type ServerOptions } from 'socket.io';
import { RedisBroker, type RedisBrokerOptions } from '../../src/broker/redis/redis-broker.js';
import type { RedisCommands } from '../../src/broker/redis/redis-commands.js';
import { eventually } from '../support/eventually.js';
import { startFakeRedis } from '../support/fake-redis.js';
import { describeWith } from '../support/programs.js';
import { REDIS_PROGRAMS, startRedis } from '../support/redis.js';
import { keepingLogger } from '../support/redis-broker.js';
import { RedisCluster } from '../support/redis-cluster.js';
import { startTcpProxy } from '../support/tcp-proxy.js';

const LATE = 'events between instances come late';
const PER_WORKER = 'limits are counted by each worker';
const BOTH = [LATE, PER_WORKER];
const PATIENCE = { timeoutMs: 20_000 };

/** Answers to every command that Redis would not give, and what is told of them. */
const ANSWERS: ReadonlyArray<readonly [name: string, answer: string, events: string]> = [
  ['nothing', '$-1\r\n', 'GARBLED'],
  ['nothing in the form of RESP3', '_\r\n', 'GARBLED'],
  ['an empty list', '*0\r\n', 'GARBLED'],
  ['a list of nothing', '*1\r\n$-1\r\n', 'GARBLED'],
  ['a number', ':1\r\n', 'GARBLED'],
  ['an empty push', '>0\r\n', 'SILENT'],
  ['a push of nothing', '>2\r\n$-1\r\n$-1\r\n', 'GARBLED'],
  ['two answers', '+OK\r\n+OK\r\n', 'GARBLED'],
  ['a page', 'HTTP/1.1 400 Bad Request\r\n\r\n', 'GARBLED'],
  ['OK', '+OK\r\n', 'GARBLED'],
];

/** Messages on Socket.IO's channels that its adapters cannot read, by the end of the channel's name. */
const UNREADABLE: ReadonlyArray<readonly [channel: string, message: Buffer]> = [
  ['#/#', Buffer.from('{')],
  ['#/#', Buffer.from([0xc1])],
  ['#/#', Buffer.from([0xc0])],
  ['#/#', Buffer.from('{"type":3,"data":{}}')],
  ['-request#/#', Buffer.from([0xc0])],
  ['-request#/#', Buffer.from('{"type":5}')],
  ['-request#/#', Buffer.from('{"type":7}')],
];

describeWith(REDIS_PROGRAMS, 'answers that Redis does not give', function () {
  this.timeout(60_000);
  let endings: Array<() => unknown>;

  beforeEach(() => {
    endings = [];
  });

  afterEach(async () => {
    for (const end of endings.reverse()) {
      await end();
    }
  });

  function brokerOn(where: Partial<RedisBrokerOptions>) {
    const { logger, lines } = keepingLogger();
    const options = { prefix: 'answers', logger, leaseMs: 900, heartbeatMs: 100, refusedMs: 20 };
    const broker = new RedisBroker({ ...options, ...where });
    const io = new Server({ adapter: broker.socketAdapter() as ServerOptions['adapter'] });
    endings.push(() => broker.stop());
    return { broker, lines, io };
  }

  for (const kind of ['server', 'cluster'] as const) {
    it(`messages for Socket.IO that it cannot read, from a ${kind}: told once, and left out`, async () => {
      const servers = kind === 'server' ? await startRedis() : await RedisCluster.start();
      endings.push(() => servers.stop());
      const where = servers instanceof RedisCluster ? { cluster: servers.seeds } : { url: servers.url };
      const all = [brokerOn(where), brokerOn(where)] as const;
      await Promise.all(all.map(({ broker }) => broker.start()));
      await eventually(
        () => expect(all.map(({ broker }) => broker.state.status)).to.deep.equal(['up', 'up']),
        PATIENCE,
      );
      let greetings = 0;
      all[1].io.on('hello', () => {
        greetings += 1;
      });
      const greet = (): Promise<void> => {
        const before = greetings;
        return eventually(() => {
          all[0].io.serverSideEmit('hello');
          expect(greetings).to.be.greaterThan(before);
        }, PATIENCE);
      };
      await greet();
      const { commands } = all[0].broker as unknown as { commands: RedisCommands };
      for (const [channel, message] of UNREADABLE) {
        await commands.publishNow(`answers:socket.io${channel}`, message);
      }
      await greet();
      for (const { lines } of all) {
        const told = lines.filter(({ level }) => level === 'warn' || level === 'error');
        expect(new Set(told.map(({ message }) => message))).to.deep.equal(
          new Set(['a message on a channel of Socket.IO cannot be read, and is left out']),
        );
        // One for each kind of channel.
        expect(told).to.have.length.within(1, 2);
      }
    });
  }

  for (const [name, answer, events] of ANSWERS) {
    it(`${name}: an outage with its reason, and no more`, async () => {
      const redis = await startRedis();
      endings.push(() => redis.stop());
      const fake = await startFakeRedis(answer);
      endings.push(() => fake.stop());
      const proxy = await startTcpProxy({ port: redis.port });
      endings.push(() => proxy.stop());
      const { broker, lines } = brokerOn({ url: `redis://127.0.0.1:${proxy.port}` });
      await broker.start();
      await eventually(() => expect(broker.state.status).to.equal('up'), PATIENCE);

      const { client } = (broker as unknown as { subscriptions: { client: Redis } }).subscriptions;
      let attempts = 0;
      client.on('close', () => {
        attempts += 1;
      });
      proxy.setTarget({ port: fake.port });
      proxy.cut();
      const codes = (lost: string): unknown[] =>
        lines.filter(({ message }) => message === `broker: ${lost}`).map(({ fields }) => fields['code']);
      await eventually(async () => {
        expect(await broker.consume('key', 1_000)).to.include({ allowed: true });
        expect(attempts).to.be.at.least(3);
        expect(broker.state.lost).to.deep.equal(BOTH);
        expect(codes(LATE)).to.include(events);
        expect(codes(PER_WORKER)).to.include.oneOf(['GARBLED', 'ETIMEDOUT', 'SILENT']);
      }, PATIENCE);
      for (const lost of BOTH) {
        expect(new Set(codes(lost)).size, JSON.stringify(lines)).to.equal(codes(lost).length);
      }

      proxy.setTarget({ port: redis.port });
      proxy.cut();
      await eventually(() => expect(broker.state.status).to.equal('up'), PATIENCE);
      const heard: string[] = [];
      await broker.subscribe('a', (batch) => heard.push(...batch.map(String)));
      await broker.publish('a', Buffer.from('one'));
      await eventually(() => expect(heard).to.deep.equal(['one']));
    });

    it(`${name} from the beginning, from a server, a Sentinel and a node of a cluster`, async () => {
      const fake = await startFakeRedis(answer);
      endings.push(() => fake.stop());
      const address = `127.0.0.1:${fake.port}`;
      for (const where of [{ url: `redis://:pw@${address}/3` }, { sentinels: [address] }, { cluster: [address] }]) {
        const { broker, lines } = brokerOn(where);
        await broker.start();
        await eventually(() => expect(lines.length).to.be.at.least(2), PATIENCE);
        expect(broker.state).to.deep.equal({ status: 'down', lost: BOTH });
      }
    });
  }
});
