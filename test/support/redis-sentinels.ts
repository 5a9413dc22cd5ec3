import { Redis } from 'ioredis';
import { eventually } from './eventually.js';
import { type RedisServer, startRedis } from './redis.js';

export const SENTINEL_MASTER = 'tasks';
const FAILOVER_MS = 60_000;

/** A master, two replicas and three Sentinels that watch them, on free ports of 127.0.0.1. */
export class RedisSentinels {
  private constructor(
    readonly servers: readonly RedisServer[],
    readonly sentinels: readonly RedisServer[],
  ) {}

  /** @param options `args` for the servers; `password` that the Sentinels want */
  static async start(options: { args?: readonly string[]; password?: string } = {}): Promise<RedisSentinels> {
    const started: RedisServer[] = [];
    const start = async (...parameters: Parameters<typeof startRedis>): Promise<RedisServer> => {
      const server = await startRedis(...parameters);
      started.push(server);
      return server;
    };
    try {
      const args = ['--repl-diskless-sync-delay', '0', ...(options.args ?? [])];
      const master = await start({ args });
      const replicas = [];
      for (let count = 0; count < 2; count += 1) {
        replicas.push(await start({ args: [...args, '--replicaof', '127.0.0.1', String(master.port)] }));
      }
      const sentinels = [];
      for (let count = 0; count < 3; count += 1) {
        const config = [
          `sentinel monitor ${SENTINEL_MASTER} 127.0.0.1 ${master.port} 2`,
          `sentinel down-after-milliseconds ${SENTINEL_MASTER} 700`,
          `sentinel failover-timeout ${SENTINEL_MASTER} 3000`,
          ...(options.password === undefined
            ? []
            : [`requirepass ${options.password}`, `sentinel sentinel-pass ${options.password}`]),
        ];
        sentinels.push(await start({ config, args: ['--sentinel'] }));
      }
      const all = new RedisSentinels([master, ...replicas], sentinels);
      await all.known(options.password);
      return all;
    } catch (error) {
      await Promise.all(started.map((server) => server.stop()));
      throw error;
    }
  }

  get addresses(): string[] {
    return this.sentinels.map(({ port }) => `127.0.0.1:${port}`);
  }

  /** The master that a Sentinel names. */
  async master(): Promise<RedisServer> {
    const alive = this.sentinels.find(({ pid }) => pid !== undefined)!;
    const [, port] = await withAdmin(alive, async (admin) => {
      return (await admin.call('SENTINEL', 'GET-MASTER-ADDR-BY-NAME', SENTINEL_MASTER)) as [string, string];
    });
    return this.servers.find((server) => server.port === Number(port))!;
  }

  /** Resolves when the Sentinels name another master than `before`. */
  failedOver(before: RedisServer): Promise<RedisServer> {
    return eventually(
      async () => {
        const master = await this.master();
        if (master === before) {
          throw new Error('no failover yet');
        }
        return master;
      },
      { timeoutMs: FAILOVER_MS, intervalMs: 50 },
    );
  }

  /** Asks the Sentinels to make a replica the master, though the present one is well. */
  async failOver(): Promise<RedisServer> {
    const before = await this.master();
    await eventually(
      () => withAdmin(this.sentinels[0]!, (admin) => admin.call('SENTINEL', 'FAILOVER', SENTINEL_MASTER)),
      { timeoutMs: FAILOVER_MS, intervalMs: 200 },
    );
    return this.failedOver(before);
  }

  async stop(): Promise<void> {
    await Promise.all([...this.sentinels, ...this.servers].map((server) => server.stop()));
  }

  /** Resolves when every Sentinel knows the others and both replicas. */
  async known(password?: string): Promise<void> {
    for (const sentinel of this.sentinels) {
      await eventually(
        () =>
          withAdmin(
            sentinel,
            async (admin) => {
              const [masters] = (await admin.call('SENTINEL', 'MASTERS')) as string[][];
              const field = (name: string): string => masters![masters!.indexOf(name) + 1]!;
              if (field('num-slaves') !== '2' || field('num-other-sentinels') !== '2' || field('flags') !== 'master') {
                throw new Error(`not known yet: ${masters}`);
              }
            },
            password,
          ),
        { timeoutMs: FAILOVER_MS, intervalMs: 100 },
      );
    }
  }
}

async function withAdmin<T>(server: RedisServer, use: (admin: Redis) => Promise<T>, password?: string): Promise<T> {
  const options = { enableReadyCheck: false, retryStrategy: null, ...(password === undefined ? {} : { password }) };
  const admin = new Redis(server.url, options);
  admin.on('error', () => {});
  try {
    return await use(admin);
  } finally {
    admin.disconnect();
  }
}
