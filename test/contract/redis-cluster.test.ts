import { expect } from 'chai';
import { Server, type ServerOptions } from 'socket.io';
import { RedisBroker } from '../../src/broker/redis/redis-broker.js';
import { eventually } from '../support/eventually.js';
import { describeWith } from '../support/programs.js';
import { REDIS_PROGRAMS } from '../support/redis.js';
import { keepingLogger, type LogLine } from '../support/redis-broker.js';
import { RedisCluster } from '../support/redis-cluster.js';

const USERS = Array.from({ length: 30 }, (_, index) => `stream:user_${index}`);

describeWith(REDIS_PROGRAMS, 'redis broker on a cluster that changes', function () {
  this.timeout(90_000);
  let cluster: RedisCluster;
  let brokers: [RedisBroker, RedisBroker];
  let lines: LogLine[];
  let heard: Map<string, number>;
  let ups: number;

  beforeEach(async () => {
    cluster = await RedisCluster.start({ replicas: true });
    const kept = keepingLogger();
    lines = kept.lines;
    heard = new Map();
    ups = 0;
    const broker = (): RedisBroker =>
      new RedisBroker({
        cluster: cluster.seeds.slice(0, 1),
        prefix: 'change',
        logger: kept.logger,
        leaseMs: 1_500,
        heartbeatMs: 100,
        refusedMs: 20,
      });
    brokers = [broker(), broker()];
    brokers[1].onUp(() => {
      ups += 1;
    });
    await Promise.all(brokers.map((one) => one.start()));
    for (const channel of USERS) {
      await brokers[1].subscribe(channel, (batch) => heard.set(channel, (heard.get(channel) ?? 0) + batch.length));
    }
    await eventually(() => expect(brokers.map(({ state }) => state.status)).to.deep.equal(['up', 'up']));
  });

  afterEach(async () => {
    await Promise.all((brokers ?? []).map((one) => one.stop()));
    await cluster?.stop();
  });

  /** All channels bring what is published, limits are counted by the servers, and the state says so. */
  async function works(): Promise<void> {
    await eventually(
      () => expect(brokers.map(({ state }) => state)).to.deep.equal(Array(2).fill({ status: 'up', lost: [] })),
      {
        timeoutMs: 40_000,
      },
    );
    heard.clear();
    await Promise.all(USERS.map((channel) => brokers[0].publish(channel, Buffer.from('x'))));
    await eventually(() => expect(heard.size).to.equal(USERS.length));
    const key = `key-${Math.random()}`;
    expect(await brokers[0].consume(key, 1)).to.include({ allowed: true });
    expect(await brokers[1].consume(key, 1)).to.include({ allowed: false });
  }

  it('spreads channels over the masters, and keeps all counters in one slot', async () => {
    await works();
    for (const node of cluster.nodes.slice(0, 3)) {
      const channels = (await cluster.admin(node).call('PUBSUB', 'SHARDCHANNELS', 'change:stream:*')) as string[];
      expect(channels.length).to.be.within(1, USERS.length - 2);
      expect(await cluster.admin(node).call('PUBSUB', 'CHANNELS')).to.deep.equal([]);
    }
    await brokers[0].acquireConnection('10.0.0.1', 5);
    const master = await cluster.masterOf('{change}');
    const keys = (await cluster.admin(master).keys('*')) as string[];
    expect(keys.every((key) => key.startsWith('{change}:'))).to.equal(true);
    expect(keys).to.include('{change}:nodes');
    for (const other of cluster.nodes.slice(0, 3).filter((node) => node !== master)) {
      expect(await cluster.admin(other).dbsize()).to.equal(0);
    }
  });

  it('follows a failover: a killed master of channels and of the counters', async () => {
    const victim = await cluster.masterOf('{change}');
    const before = ups;
    await victim.kill();
    await eventually(() => expect(brokers[1].state.status).to.not.equal('up'));
    await cluster.failedOver('{change}', victim);
    await works();
    expect(ups).to.be.greaterThan(before);
    expect(
      lines.some(({ message, fields }) => message.startsWith('broker: ') && fields['code'] === 'ECONNREFUSED'),
    ).to.equal(true);
    // It comes back as a replica of its successor.
    await victim.launch();
    await works();
  });

  it('follows slots that move, the one of the counters too', async () => {
    const place = await brokers[0].acquireConnection('10.0.0.2', 1);
    for (const name of [`change:${USERS[0]}`, '{change}']) {
      const before = await cluster.masterOf(name);
      const known = ups;
      await cluster.moveSlot(name);
      expect(await cluster.masterOf(name)).to.not.equal(before);
      if (name !== '{change}') {
        // What was published meanwhile may have been missed.
        await eventually(() => expect(ups).to.be.greaterThan(known));
      }
      await works();
    }
    expect(await brokers[1].acquireConnection('10.0.0.2', 1)).to.equal(undefined);
    place!();
    await eventually(async () => expect(await brokers[1].acquireConnection('10.0.0.2', 1)).to.be.a('function'));
  });

  it('outlives a cluster that is away as a whole', async () => {
    await Promise.all(cluster.nodes.map((node) => node.kill()));
    await eventually(() => expect(brokers.map(({ state }) => state.status)).to.deep.equal(['down', 'down']));
    expect(await brokers[0].publish('stream:x', Buffer.from('x')).catch((error: unknown) => error)).to.be.instanceOf(
      Error,
    );
    expect(await brokers[0].consume('away', 1)).to.include({ allowed: true });
    expect(await brokers[0].consume('away', 1)).to.include({ allowed: false });
    await Promise.all(cluster.nodes.map((node) => node.launch()));
    await works();
  });

  it('gives Socket.IO the adapter of a cluster, which follows too', async () => {
    const servers = brokers.map((one) => new Server({ adapter: one.socketAdapter() as ServerOptions['adapter'] }));
    let answers = 0;
    servers[1]!.on('hello', () => {
      answers += 1;
    });
    const arrives = async (): Promise<void> => {
      const before = answers;
      await eventually(
        () => {
          servers[0]!.serverSideEmit('hello');
          expect(answers).to.be.greaterThan(before);
        },
        { timeoutMs: 30_000, intervalMs: 100 },
      );
    };
    await arrives();
    const channel = 'change:socket.io#/#';
    const victim = await cluster.masterOf(channel);
    await victim.kill();
    await cluster.failedOver(channel, victim);
    await arrives();
    expect(await (servers[0]!.of('/').adapter as unknown as { serverCount(): Promise<number> }).serverCount()).to.equal(
      2,
    );
  });
});
