import { type RedisKind, type RedisSide, startRedisSide } from '../fault/redis-side.js';
import { eventually } from '../support/eventually.js';
import { Instance, type InstanceOptions } from '../support/instance.js';
import { PostgresPair } from '../support/postgres-pair.js';
import { freePort } from '../support/programs.js';
import type { ProxyKind, ReverseProxy } from '../support/proxy.js';
import { Scene } from '../support/scene.js';
import { startTcpProxy, type TcpProxy } from '../support/tcp-proxy.js';

const USERS = 8;
const JOBS_PER_USER = 5;
const INSTANCES = 2;
const WORKERS = 2;
const SECRET = 's'.repeat(32);

/** What stands in front of the instances, and behind them. */
export interface Half {
  readonly proxy: ProxyKind;
  readonly redis: RedisKind;
  /** `address`: one that somebody moves after a failover. `servers`: both are named. */
  readonly postgres: 'address' | 'servers';
}

/** The whole system on this machine, with real parts. */
export class Stage {
  readonly instances: Instance[] = [];
  /** Those that have ended. */
  readonly before: Instance[] = [];
  private proxy: ReverseProxy | undefined;
  private redis: RedisSide | undefined;
  private half: Half | undefined;

  private constructor(
    readonly postgres: PostgresPair,
    /** Leads to the primary. */
    private readonly address: TcpProxy,
    private readonly database: string,
    readonly scene: Scene,
    private readonly proxyPort: number,
  ) {}

  static async start(half: Half): Promise<Stage> {
    const postgres = await PostgresPair.start();
    const database = new URL(await postgres.primary.createDatabase()).pathname;
    const address = await startTcpProxy({ port: postgres.primary.port });
    const scene = await Scene.make(serversUrl(postgres, database), { users: USERS, jobsPerUser: JOBS_PER_USER });
    const stage = new Stage(postgres, address, database, scene, await freePort());
    try {
      stage.redis = await startRedisSide(half.redis);
      stage.half = half;
      for (let count = 0; count < INSTANCES; count += 1) {
        stage.instances.push(await Instance.start({ ...stage.settings(), port: await freePort() }));
      }
      await stage.startProxy();
      return stage;
    } catch (error) {
      await stage.stop();
      throw error;
    }
  }

  /** The one address that clients and writers know. */
  get url(): string {
    return `http://127.0.0.1:${this.proxyPort}`;
  }

  /** Of the Postgres that takes writes now. */
  get primaryUrl(): string {
    return `postgres://postgres@127.0.0.1:${this.postgres.primary.port}${this.database}`;
  }

  /** An instance ends in order and comes back, with the settings of now. */
  async restart(index: number): Promise<void> {
    const old = this.instances[index]!;
    const code = await old.stop();
    if (code !== 0) {
      throw new Error(`an instance that was told to end ended with ${code}`);
    }
    await this.replace(index);
  }

  async reloadProxy(): Promise<void> {
    await this.proxy!.reload();
  }

  async killInstance(index: number): Promise<void> {
    await this.instances[index]!.kill();
  }

  /** Starts an instance in the place of one that has ended. */
  async replace(index: number): Promise<void> {
    const old = this.instances[index]!;
    this.before.push(old);
    this.instances[index] = await Instance.start({ ...this.settings(), port: old.port });
  }

  /** The primary dies. The address follows when the old primary is back as a standby, and has answered for a moment. */
  async failPostgresOver(): Promise<void> {
    await this.postgres.failOver();
    this.address.setTarget({ port: this.postgres.primary.port });
  }

  async failRedisOver(next: () => number): Promise<void> {
    await this.redis!.inflict('kill a Redis master', next);
  }

  /** Another proxy takes the address over, and the instances go to another Redis, one after the other. */
  async change(half: Half): Promise<void> {
    const { redis } = this;
    await this.proxy!.stop();
    this.half = half;
    await this.startProxy();
    this.redis = await startRedisSide(half.redis);
    for (const index of this.instances.keys()) {
      await this.restart(index);
    }
    await redis!.stop();
  }

  async stop(): Promise<void> {
    await Promise.all(this.instances.map((instance) => instance.kill()));
    await this.proxy?.stop();
    await this.scene.close();
    await this.redis?.stop();
    await this.address.stop();
    await this.postgres.stop();
  }

  private settings(): InstanceOptions {
    const database =
      this.half!.postgres === 'address'
        ? `postgres://postgres@127.0.0.1:${this.address.port}${this.database}`
        : serversUrl(this.postgres, this.database);
    return {
      workers: WORKERS,
      env: {
        DATABASE_URL: database,
        ...this.redis!.env,
        TRUSTED_PROXIES: 'loopback',
        TOKEN_SECRET: SECRET,
        // As an operator has it who has set nothing.
        MAX_CONNECTIONS_PER_IP: undefined,
        STATS_ACCESS: undefined,
      },
    };
  }

  private async startProxy(): Promise<void> {
    const ports = this.instances.map(({ port }) => port);
    this.proxy = await this.half!.proxy.start({ instances: ports, port: this.proxyPort });
    await eventually(async () => {
      const { status } = await fetch(`${this.url}/api/ws/health`);
      if (status !== 200) {
        throw new Error(`through the proxy: ${status}`);
      }
    });
  }
}

const serversUrl = ({ ports }: PostgresPair, database: string): string =>
  `postgres://postgres@${ports.map((port) => `127.0.0.1:${port}`).join(',')}${database}`;
