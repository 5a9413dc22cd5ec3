import { setTimeout as sleep } from 'node:timers/promises';
import type { RedisSettings } from '../../src/broker/redis/redis-settings.js';
import { type RedisServer, startRedis } from '../support/redis.js';
import { RedisCluster } from '../support/redis-cluster.js';
import { RedisSentinels, SENTINEL_MASTER } from '../support/redis-sentinels.js';
import { startTcpProxy, type TcpProxy } from '../support/tcp-proxy.js';

/** What can happen to Redis, by what there is of it. */
export const REDIS_FAULTS = {
  server: ['kill and restart Redis', 'stop Redis for 5 s', 'cut Redis', 'delay Redis', 'black-hole Redis'],
  cluster: ['kill a Redis master', 'stop a Redis master for 5 s', 'move a slot of Redis'],
  sentinels: ['kill a Redis master', 'stop a Redis master for 5 s', 'ask for another Redis master'],
} as const;

export type RedisKind = keyof typeof REDIS_FAULTS;
export type RedisFault = (typeof REDIS_FAULTS)[RedisKind][number];

/** The Redis of a run, and hands that break it. */
export interface RedisSide {
  /** For the service. */
  readonly env: Readonly<Record<string, string>>;
  /** The same for a broker of this process. */
  readonly settings: RedisSettings;
  /** @param next gives a number from 0 to 1 */
  inflict(fault: RedisFault, next: () => number): Promise<void>;
  stop(): Promise<void>;
}

export const startRedisSide = (kind: RedisKind): Promise<RedisSide> =>
  ({ server: startServer, cluster: startCluster, sentinels: startSentinels })[kind]();

async function startServer(): Promise<RedisSide> {
  const redis = await startRedis();
  const proxy = await startTcpProxy(redis);
  const url = `redis://127.0.0.1:${proxy.port}`;
  return {
    env: { REDIS_URL: url },
    settings: { url },
    async inflict(fault, next) {
      switch (fault) {
        case 'kill and restart Redis':
          await redis.kill();
          await sleep(next() * 2_000);
          await redis.launch();
          break;
        case 'stop Redis for 5 s':
          await stopFor5s(redis);
          break;
        case 'cut Redis':
          await outage(proxy, 'refuse', next);
          break;
        case 'delay Redis':
          await delay(proxy, next);
          break;
        case 'black-hole Redis':
          await outage(proxy, 'blackhole', next);
          break;
        default:
          throw new Error(`one server has no fault "${fault}"`);
      }
    },
    async stop() {
      await proxy.stop();
      await redis.stop();
    },
  };
}

/** Three masters with a replica each; faults hit the counters' master and those of streams in turn. */
async function startCluster(): Promise<RedisSide> {
  const cluster = await RedisCluster.start({ replicas: true });
  const seeds = cluster.seeds;
  return {
    env: { REDIS_CLUSTER: seeds.join(',') },
    settings: { cluster: seeds },
    async inflict(fault, next) {
      const user = 1 + Math.floor(next() * 5);
      const name = next() < 0.5 ? '{taskwire}' : `taskwire:stream:user_${user}`;
      const master = await cluster.masterOf(name);
      switch (fault) {
        case 'kill a Redis master':
          await master.kill();
          await cluster.failedOver(name, master);
          await master.launch();
          await cluster.whole();
          break;
        case 'stop a Redis master for 5 s':
          await stopFor5s(master);
          await cluster.whole();
          break;
        case 'move a slot of Redis':
          await cluster.moveSlot(name);
          break;
        default:
          throw new Error(`a cluster has no fault "${fault}"`);
      }
    },
    stop: () => cluster.stop(),
  };
}

async function startSentinels(): Promise<RedisSide> {
  const sentinels = await RedisSentinels.start();
  const addresses = sentinels.addresses;
  return {
    env: { REDIS_SENTINELS: addresses.join(','), REDIS_SENTINEL_MASTER: SENTINEL_MASTER },
    settings: { sentinels: addresses, sentinelMaster: SENTINEL_MASTER },
    async inflict(fault) {
      const master = await sentinels.master();
      switch (fault) {
        case 'kill a Redis master':
          await master.kill();
          await sentinels.failedOver(master);
          await master.launch();
          break;
        case 'stop a Redis master for 5 s':
          await stopFor5s(master);
          break;
        case 'ask for another Redis master':
          await sentinels.failOver();
          break;
        default:
          throw new Error(`Sentinels have no fault "${fault}"`);
      }
      await sentinels.known();
    },
    stop: () => sentinels.stop(),
  };
}

async function stopFor5s(redis: RedisServer): Promise<void> {
  redis.pause();
  await sleep(5_000);
  redis.resume();
}

/** Takes a wire away for a while. @param next gives a number from 0 to 1 */
export async function outage(proxy: TcpProxy, mode: 'refuse' | 'blackhole', next: () => number): Promise<void> {
  proxy.setMode(mode);
  await sleep(500 + next() * 4_000);
  proxy.setMode('pass');
  if (mode === 'blackhole' && next() < 0.5) {
    proxy.cut();
  }
}

/** Makes a wire long for a while. */
export async function delay(proxy: TcpProxy, next: () => number): Promise<void> {
  proxy.setDelay(20 + next() * 300);
  await sleep(1_000 + next() * 3_000);
  proxy.setDelay(0);
}
