import { expect } from 'chai';
import { Redis } from 'ioredis';
import { RedisBroker, type RedisBrokerOptions } from '../../src/broker/redis/redis-broker.js';
import { eventually } from '../support/eventually.js';
import { describeWith } from '../support/programs.js';
import { REDIS_PROGRAMS, type RedisServer } from '../support/redis.js';
import { keepingLogger, type LogLine } from '../support/redis-broker.js';
import { RedisSentinels, SENTINEL_MASTER } from '../support/redis-sentinels.js';

describeWith(REDIS_PROGRAMS, 'redis broker with Sentinels that fail over', function () {
  this.timeout(120_000);
  let sentinels: RedisSentinels;
  let lines: LogLine[];
  let brokers: RedisBroker[];
  let heard: string[];

  before(async () => {
    sentinels = await RedisSentinels.start();
  });

  after(() => sentinels?.stop());

  beforeEach(() => {
    brokers = [];
    heard = [];
    lines = [];
  });

  afterEach(() => Promise.all(brokers.map((one) => one.stop())));

  async function start(where: Partial<RedisBrokerOptions> = {}): Promise<RedisBroker> {
    const kept = keepingLogger();
    lines = kept.lines;
    const broker = new RedisBroker({
      sentinels: sentinels.addresses,
      sentinelMaster: SENTINEL_MASTER,
      prefix: 'sentinel',
      logger: kept.logger,
      leaseMs: 1_500,
      heartbeatMs: 100,
      refusedMs: 20,
      ...where,
    });
    brokers.push(broker);
    await broker.start();
    return broker;
  }

  async function two(): Promise<void> {
    await start();
    const second = await start();
    await second.subscribe('a', (batch) => heard.push(...batch.map(String)));
    await works('at first');
  }

  /** Events arrive, limits are counted by the master that the Sentinels name, and the state says so. */
  async function works(name: string, master?: RedisServer): Promise<void> {
    const [one, other] = brokers as [RedisBroker, RedisBroker];
    await eventually(() => expect(brokers.map(({ state }) => state.status)).to.deep.equal(['up', 'up']), {
      timeoutMs: 40_000,
    });
    await eventually(async () => {
      await one.publish('a', Buffer.from(name));
      expect(heard).to.include(name);
    });
    await eventually(
      async () => {
        const key = `${name}-${Math.random()}`;
        expect(await one.consume(key, 1)).to.include({ allowed: true });
        expect(await other.consume(key, 1)).to.include({ allowed: false });
        const admin = new Redis((master ?? (await sentinels.master())).url);
        const count = await admin.get(`{sentinel}:rate:${key}`);
        admin.disconnect();
        expect(count).to.equal('2');
      },
      { timeoutMs: 40_000, intervalMs: 100 },
    );
  }

  it('goes to the new master when the old one is killed', async () => {
    await two();
    const old = await sentinels.master();
    await old.kill();
    await eventually(() => expect(brokers[0]!.state.status).to.equal('down'));
    await sentinels.failedOver(old);
    await works('killed');
    await old.launch();
  });

  it('goes to the new master when the old one is stopped in its tracks, and stays there when it goes on', async () => {
    await two();
    const old = await sentinels.master();
    old.pause();
    try {
      await sentinels.failedOver(old);
      await works('paused');
    } finally {
      old.resume();
    }
    await works('resumed');
  });

  it('goes to the new master when an operator asks the Sentinels for another one', async () => {
    await two();
    await sentinels.failOver();
    await works('asked');
  });

  it('works while one Sentinel is gone, and says why when there is none', async () => {
    await sentinels.sentinels[0]!.kill();
    await two();
    const master = await sentinels.master();
    await Promise.all(sentinels.sentinels.slice(1).map((sentinel) => sentinel.kill()));
    // Who is connected does not need them.
    await works('alone', master);
    const late = await start();
    expect(late.state.status).to.equal('down');
    await eventually(() => expect(lines.map(({ fields }) => fields['code'])).to.include('SENTINEL_ECONNREFUSED'));
    await Promise.all(sentinels.sentinels.map((sentinel) => sentinel.launch()));
    await eventually(() => expect(late.state.status).to.equal('up'), { timeoutMs: 40_000 });
  });

  it('says so when the Sentinels know no master of that name', async () => {
    const broker = await start({ sentinelMaster: 'nobody' });
    expect(broker.state.status).to.equal('down');
    await eventually(() => {
      const line = lines.find(({ message }) => message === 'broker: limits are counted by each worker');
      expect(line!.fields['code']).to.equal('SENTINEL');
      expect(line!.fields['hint']).to.contain('REDIS_SENTINEL_MASTER');
    });
  });
});
