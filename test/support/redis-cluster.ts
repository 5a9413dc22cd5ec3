import { Command, Redis } from 'ioredis';
import { eventually } from './eventually.js';
import { freePort } from './programs.js';
import { type RedisServer, startRedis } from './redis.js';

const SLOTS = 16_384;
/** A failover takes a few seconds. */
const FAILOVER_MS = 30_000;

/** Slot of a key or channel. */
export const slotOf = (name: string): number => new Command('get', [name]).getSlot()!;

/** A Redis Cluster of the test's own, on free ports of 127.0.0.1. */
export class RedisCluster {
  private readonly admins = new Map<RedisServer, Redis>();

  private constructor(
    /** Masters first, then a replica of each where there are some. */
    readonly nodes: readonly RedisServer[],
    private readonly busPorts: ReadonlyMap<RedisServer, number>,
  ) {}

  /** @param options `replicas`: whether each of the three masters has one */
  static async start(options: { replicas?: boolean; args?: readonly string[] } = {}): Promise<RedisCluster> {
    const busPorts = new Map<RedisServer, number>();
    const start = async (): Promise<RedisServer> => {
      const busPort = await freePort();
      const server = await startRedis({
        args: [
          ...['--cluster-enabled', 'yes', '--cluster-port', String(busPort), '--cluster-node-timeout', '1000'],
          ...['--repl-diskless-sync-delay', '0', '--cluster-allow-replica-migration', 'no'],
          ...(options.args ?? []),
        ],
      });
      busPorts.set(server, busPort);
      return server;
    };
    const nodes: RedisServer[] = [];
    try {
      for (let count = 0; count < (options.replicas ? 6 : 3); count += 1) {
        nodes.push(await start());
      }
      const cluster = new RedisCluster(nodes, busPorts);
      await cluster.form();
      return cluster;
    } catch (error) {
      await Promise.all(nodes.map((node) => node.stop()));
      throw error;
    }
  }

  /** Where a client begins to ask. */
  get seeds(): string[] {
    return this.nodes.map(({ port }) => `127.0.0.1:${port}`);
  }

  /** A connection to one node for the test's own commands. */
  admin(node: RedisServer): Redis {
    let admin = this.admins.get(node);
    if (admin === undefined) {
      admin = new Redis(node.url, { enableReadyCheck: false });
      admin.on('error', () => {});
      this.admins.set(node, admin);
    }
    return admin;
  }

  /** The master that has the slot of a name now. */
  async masterOf(name: string): Promise<RedisServer> {
    const slot = slotOf(name);
    const ranges = await this.anyAdmin().cluster('SLOTS');
    const port = ranges.find(([first, last]) => slot >= first && slot <= last)?.[2]?.[1];
    return this.nodes.find((node) => node.port === port)!;
  }

  /** Moves the slot of a name, which has no keys in it, to another master, as an operator would. */
  async moveSlot(name: string): Promise<void> {
    const from = await this.masterOf(name);
    const to = this.nodes.slice(0, 3).find((node) => node !== from)!;
    const slot = slotOf(name);
    const [fromId, toId] = (await Promise.all([from, to].map((node) => this.admin(node).cluster('MYID')))) as [
      string,
      string,
    ];
    await this.admin(to).call('CLUSTER', 'SETSLOT', slot, 'IMPORTING', fromId);
    await this.admin(from).call('CLUSTER', 'SETSLOT', slot, 'MIGRATING', toId);
    for (;;) {
      const keys = (await this.admin(from).call('CLUSTER', 'GETKEYSINSLOT', slot, 100)) as string[];
      if (keys.length === 0) {
        break;
      }
      await this.admin(from).call('MIGRATE', '127.0.0.1', to.port, '', 0, 5_000, 'KEYS', ...keys);
    }
    // The new master first, then everybody.
    for (const node of [to, ...this.nodes.filter((node) => node !== to && node.pid !== undefined)]) {
      await this.admin(node)
        .call('CLUSTER', 'SETSLOT', slot, 'NODE', toId)
        .catch((error: Error) => {
          // Replicas learn it from their masters.
          if (!/replica|Please use SETSLOT only with masters/i.test(error.message)) {
            throw error;
          }
        });
    }
  }

  /** Resolves when another node than `before` is the master of a name's slot. */
  async failedOver(name: string, before: RedisServer): Promise<RedisServer> {
    return eventually(
      async () => {
        const master = await this.masterOf(name);
        if (master === before) {
          throw new Error('no failover yet');
        }
        return master;
      },
      { timeoutMs: FAILOVER_MS, intervalMs: 50 },
    );
  }

  async stop(): Promise<void> {
    for (const admin of this.admins.values()) {
      admin.disconnect();
    }
    await Promise.all(this.nodes.map((node) => node.stop()));
  }

  private anyAdmin(): Redis {
    return this.admin(this.nodes.find(({ pid }) => pid !== undefined)!);
  }

  private async form(): Promise<void> {
    const { nodes } = this;
    const masters = nodes.slice(0, 3);
    for (const [index, node] of masters.entries()) {
      const first = Math.floor((index * SLOTS) / masters.length);
      const last = Math.floor(((index + 1) * SLOTS) / masters.length) - 1;
      await this.admin(node).call('CLUSTER', 'ADDSLOTSRANGE', first, last);
      await this.admin(node).call('CLUSTER', 'SET-CONFIG-EPOCH', index + 1);
    }
    for (const node of nodes.slice(1)) {
      await this.admin(nodes[0]!).call('CLUSTER', 'MEET', '127.0.0.1', node.port, this.busPorts.get(node)!);
    }
    for (const [index, node] of nodes.slice(3).entries()) {
      const id = (await this.admin(masters[index]!).cluster('MYID')) as string;
      await eventually(() => this.admin(node).call('CLUSTER', 'REPLICATE', id), { intervalMs: 50 });
    }
    await this.whole();
  }

  /** Resolves when every node knows all others and each master has its replica. */
  async whole(): Promise<void> {
    const { nodes } = this;
    await eventually(
      async () => {
        for (const node of nodes) {
          const info = String(await this.admin(node).cluster('INFO'));
          const known = String(await this.admin(node).cluster('NODES'));
          const replicas = known.split('\n').filter((line) => / (?:myself,)?slave /.test(line));
          const link = /master_link_status:(\w+)/.exec(String(await this.admin(node).info('replication')))?.[1];
          if (
            !info.includes('cluster_state:ok') ||
            !info.includes(`cluster_known_nodes:${nodes.length}`) ||
            replicas.length !== nodes.length - 3 ||
            link === 'down'
          ) {
            throw new Error(`not formed yet: ${info}${known}`);
          }
        }
      },
      { timeoutMs: FAILOVER_MS, intervalMs: 50 },
    );
  }
}
