import { readFileSync } from 'node:fs';
import { expect } from 'chai';
import { Redis } from 'ioredis';
import { Server, type ServerOptions } from 'socket.io';
import { RedisBroker, type RedisBrokerOptions } from '../../src/broker/redis/redis-broker.js';
import { eventually } from '../support/eventually.js';
import { describeWith } from '../support/programs.js';
import { REDIS_PROGRAMS, type RedisServer, startRedis } from '../support/redis.js';
import { keepingLogger, type LogLine } from '../support/redis-broker.js';
import { RedisCluster } from '../support/redis-cluster.js';

const README = readFileSync(new URL('../../../deploy/README.md', import.meta.url), 'utf8');

/** The words of a rule as it stands in deploy/README.md. */
function ruleOf(user: string): string[] {
  const rule = new RegExp(`^ACL SETUSER (${user} .+)$`, 'm').exec(README)![1]!;
  return rule.replaceAll('"', '').split(' ');
}

describeWith(REDIS_PROGRAMS, 'rights on Redis, as deploy/README.md gives them,', function () {
  this.timeout(60_000);

  /** Uses all that a broker does, and the adapter of Socket.IO. */
  async function expectEverything(where: Partial<RedisBrokerOptions>): Promise<LogLine[]> {
    const { logger, lines } = keepingLogger();
    const options = { prefix: 'taskwire', logger, heartbeatMs: 100, ...where };
    const brokers = [new RedisBroker(options), new RedisBroker(options)] as const;
    const servers = brokers.map((one) => new Server({ adapter: one.socketAdapter() as ServerOptions['adapter'] }));
    for (const server of servers) {
      server.of('/api/ws/tasks');
    }
    try {
      await Promise.all(brokers.map((one) => one.start()));
      await eventually(() => expect(brokers.map(({ state }) => state.status)).to.deep.equal(['up', 'up']));
      const heard: string[] = [];
      await brokers[1].subscribe('stream:ada', (batch) => heard.push(...batch.map(String)));
      await brokers[0].publish('stream:ada', Buffer.from('one'));
      await eventually(() => expect(heard).to.deep.equal(['one']));
      expect(await brokers[0].consume('key', 1)).to.include({ allowed: true });
      expect(await brokers[1].consume('key', 1)).to.include({ allowed: false });
      (await brokers[0].acquireConnection('10.0.0.1', 1))!();
      expect(await brokers[0].liveNodes()).to.have.length(2);
      let hellos = 0;
      servers[1]!.of('/api/ws/tasks').on('hello', () => {
        hellos += 1;
      });
      await eventually(() => {
        servers[0]!.of('/api/ws/tasks').serverSideEmit('hello');
        expect(hellos).to.be.greaterThan(0);
      });
      await brokers[1].unsubscribe('stream:ada');
    } finally {
      await Promise.all(brokers.map((one) => one.stop()));
    }
    return lines.filter(({ level }) => level === 'warn' || level === 'error');
  }

  it('are enough for the service on a cluster', async () => {
    const cluster = await RedisCluster.start();
    try {
      for (const node of cluster.nodes) {
        await cluster.admin(node).call('ACL', 'SETUSER', ...ruleOf('taskwire'));
        // The tests go on as the user without a name; the service must not need it.
        await cluster.admin(node).call('ACL', 'SETUSER', 'tester', 'on', '>tester', '+@all', '~*', '&*');
        await cluster.admin(node).auth('tester', 'tester');
        await cluster.admin(node).call('ACL', 'SETUSER', 'default', 'off');
      }
      const refused = await expectEverything({ cluster: cluster.seeds, username: 'taskwire', password: 'secret' });
      expect(refused).to.deep.equal([]);
      for (const node of cluster.nodes) {
        expect(await cluster.admin(node).call('ACL', 'LOG')).to.deep.equal([]);
      }
    } finally {
      await cluster.stop();
    }
  });

  describe('keep a stranger', () => {
    let redis: RedisServer;
    let admin: Redis;
    let stranger: Redis;

    before(async () => {
      redis = await startRedis();
      admin = new Redis(redis.url);
      for (const user of ['taskwire', 'stranger']) {
        await admin.call('ACL', 'SETUSER', ...ruleOf(user));
      }
      stranger = new Redis(redis.url, { username: 'stranger', password: 'other', enableReadyCheck: false });
    });

    after(async () => {
      stranger?.disconnect();
      admin?.disconnect();
      await redis?.stop();
    });

    const forbidden: Array<[what: string, command: [string, ...Array<string | number>]]> = [
      ['from inventing an event', ['PUBLISH', 'taskwire:stream:ada', '1 e job 1 TASK_CREATED\n{}']],
      ['from inventing one by a shard', ['SPUBLISH', 'taskwire:stream:ada', 'x']],
      ['from inventing one in a script', ['EVAL', "return redis.call('PUBLISH', 'taskwire:stream:ada', 'x')", 0]],
      ['from ending connections', ['PUBLISH', 'taskwire:control', '{"type":"key-revoked","keyId":"1"}']],
      ["from Socket.IO's commands", ['PUBLISH', 'taskwire:socket.io#/#', 'x']],
      ['from events of others', ['SUBSCRIBE', 'taskwire:stream:ada']],
      ['from all events', ['PSUBSCRIBE', '*']],
      ['from events of a shard', ['SSUBSCRIBE', 'taskwire:stream:ada']],
      ['from the names of channels', ['PUBSUB', 'CHANNELS', '*']],
      ['from the names of keys', ['SCAN', 0]],
      ['from all names of keys', ['KEYS', '*']],
      ['from the counts of a key', ['DEL', '{taskwire}:rate:1']],
      ['from the places of an address', ['HSET', '{taskwire}:connections:10.0.0.1', 'x', 1]],
      ['from the list of nodes', ['ZADD', '{taskwire}:nodes', 1, 'x']],
      ['from counts in a script', ['EVAL', "return redis.call('DEL', KEYS[1])", 1, '{taskwire}:rate:1']],
      ['from emptying the server', ['FLUSHALL']],
      ['from watching what others do', ['MONITOR']],
      ['from the addresses of others', ['CLIENT', 'LIST']],
      ['from the rules', ['ACL', 'SETUSER', 'stranger', 'allchannels']],
    ];
    for (const [what, [command, ...args]] of forbidden) {
      it(what, async () => {
        const answer = await stranger.call(command, ...args).catch((error: Error) => error.message);
        expect(String(answer)).to.match(/NOPERM|No permissions|ACL failure|can't/);
      });
    }

    it('and leave it its own', async () => {
      expect(await stranger.set('other:key', 'x')).to.equal('OK');
      expect(await stranger.publish('other:channel', 'x')).to.equal(0);
    });

    it('and are enough for the service, without the user that has no name', async () => {
      await admin.call('ACL', 'SETUSER', 'tester', 'on', '>tester', '+@all', '~*', '&*');
      await admin.auth('tester', 'tester');
      const words = /^ACL SETUSER (default .+)$/m.exec(README)![1]!.split(' ');
      await admin.call('ACL', 'SETUSER', ...words);
      await admin.call('ACL', 'LOG', 'RESET');
      const url = redis.url.replace('//', '//taskwire:secret@');
      expect(await expectEverything({ url })).to.deep.equal([]);
      expect(await admin.call('ACL', 'LOG')).to.deep.equal([]);
      const nameless = new Redis(redis.url, { lazyConnect: true, retryStrategy: null, enableReadyCheck: false });
      nameless.on('error', () => {});
      expect(await nameless.get('x').catch((error: Error) => error.message)).to.match(/NOAUTH/);
      nameless.disconnect();
    });
  });
});
