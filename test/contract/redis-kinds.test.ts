import { silentLogger } from '../../src/base/logger.js';
import { RedisBroker, type RedisBrokerOptions } from '../../src/broker/redis/redis-broker.js';
import { describeWith, findProgram } from '../support/programs.js';
import { REDIS_PROGRAMS, startRedis } from '../support/redis.js';
import { crash } from '../support/redis-broker.js';
import { RedisCluster } from '../support/redis-cluster.js';
import { RedisSentinels, SENTINEL_MASTER } from '../support/redis-sentinels.js';
import { brokerContract } from './broker.suite.js';

/** The contract on servers of one kind. */
function onServers(open: () => Promise<{ where: Partial<RedisBrokerOptions>; stop(): Promise<void> }>): void {
  brokerContract(async () => {
    const servers = await open();
    return {
      node: () =>
        new RedisBroker({
          ...servers.where,
          prefix: 'contract',
          logger: silentLogger,
          leaseMs: 1_500,
          heartbeatMs: 100,
        }),
      kill: (broker) => crash(broker as RedisBroker),
      close: () => servers.stop(),
    };
  });
}

describeWith(REDIS_PROGRAMS, 'redis broker on a cluster', () =>
  onServers(async () => {
    const cluster = await RedisCluster.start();
    return { where: { cluster: cluster.seeds }, stop: () => cluster.stop() };
  }),
);

describeWith(REDIS_PROGRAMS, 'redis broker with Sentinels', () =>
  onServers(async () => {
    const sentinels = await RedisSentinels.start({ password: 'of-the-sentinels' });
    const where = {
      sentinels: sentinels.addresses,
      sentinelMaster: SENTINEL_MASTER,
      sentinelPassword: 'of-the-sentinels',
    };
    return { where, stop: () => sentinels.stop() };
  }),
);

describeWith(REDIS_PROGRAMS, 'redis broker over a socket of the machine', () =>
  onServers(async () => {
    const server = await startRedis({ args: ['--unixsocket', './redis.sock', '--requirepass', '100%/of@it'] });
    return {
      where: { url: `redis+unix://:100%25%2Fof%40it@${server.dir}/redis.sock` },
      stop: () => server.stop(),
    };
  }),
);

// Debian 12 has no Valkey: where there is one, it is held to the contract too.
(findProgram('valkey-server') === undefined ? describe.skip : describe)('redis broker on Valkey', () =>
  onServers(async () => {
    const server = await startRedis({ program: 'valkey-server' });
    return { where: { url: server.url }, stop: () => server.stop() };
  }),
);
