import { Redis } from 'ioredis';
import type { RedisSettings } from '../../src/broker/redis/redis-settings.js';
import type { RedisServer } from './redis.js';
import { RedisCluster } from './redis-cluster.js';
import { RedisSentinels, SENTINEL_MASTER } from './redis-sentinels.js';

/** A connection of the test's own user, whom no change of a password concerns. */
type Admin = Redis;

/** Servers whose password a test changes while a service uses them. */
export interface Guarded {
  /** Who wants the password. */
  readonly doors: readonly Admin[];
  /** What a service with this password is told. */
  settings(password: string): RedisSettings;
  /** Lets in whoever has one of these passwords. The last one is what the servers use for each other. */
  want(passwords: readonly string[], doors?: readonly Admin[]): Promise<void>;
  /** Cuts connections of services. */
  cut(servers?: readonly Admin[]): Promise<void>;
  /** The server that counts for a prefix. */
  counterOf(prefix: string): Promise<Admin>;
  stop(): Promise<void>;
}

/** Sentinels that name the servers, and which of both want the password. */
export async function guardedSentinels(guarded: 'servers' | 'sentinels'): Promise<Guarded> {
  const all = await RedisSentinels.start();
  const servers = await adminsOf(all.servers);
  const sentinels = await adminsOf(all.sentinels);
  const doors = guarded === 'servers' ? servers : sentinels;
  // On a busy machine they would take a master for dead whose connections were cut, and choose another one.
  await Promise.all(
    sentinels.map((admin) => admin.call('SENTINEL', 'SET', SENTINEL_MASTER, 'down-after-milliseconds', 60_000)),
  );
  return {
    doors,
    settings: (password) => ({
      sentinels: all.addresses,
      sentinelMaster: SENTINEL_MASTER,
      ...(guarded === 'servers' ? { password } : { sentinelPassword: password }),
    }),
    want: async (passwords, those = doors) => {
      await setPasswords(those, 'default', passwords);
      const own = passwords.at(-1)!;
      if (guarded === 'servers') {
        await Promise.all(servers.map((admin) => admin.config('SET', 'masterauth', own)));
        await Promise.all(sentinels.map((admin) => admin.call('SENTINEL', 'SET', SENTINEL_MASTER, 'auth-pass', own)));
      } else {
        await Promise.all(sentinels.map((admin) => admin.call('SENTINEL', 'CONFIG', 'SET', 'sentinel-pass', own)));
      }
    },
    cut: (those = servers) => cutAt(those),
    counterOf: async () => servers[all.servers.indexOf(await all.master())]!,
    stop: () => stopAll([...servers, ...sentinels], all),
  };
}

/** A cluster of three masters, all of which want the password. */
export async function guardedCluster(user: 'default' | 'taskwire'): Promise<Guarded> {
  const cluster = await RedisCluster.start();
  const doors = await adminsOf(cluster.nodes);
  const nodeOf = new Map(cluster.nodes.map((node, index) => [node, doors[index]!]));
  return {
    doors,
    settings: (password) => ({
      cluster: cluster.seeds,
      password,
      ...(user === 'default' ? {} : { username: user }),
    }),
    want: (passwords, those = doors) => setPasswords(those, user, passwords),
    cut: (those = doors) => cutAt(those),
    counterOf: async (prefix) => nodeOf.get(await cluster.masterOf(`{${prefix}}`))!,
    stop: () => stopAll(doors, cluster),
  };
}

async function adminsOf(servers: readonly RedisServer[]): Promise<Admin[]> {
  return Promise.all(
    servers.map(async ({ url }) => {
      const first = new Redis(url, { enableReadyCheck: false });
      await first.call('ACL', 'SETUSER', 'tester', 'on', '>tester', '+@all', '~*', '&*');
      first.disconnect();
      const admin = new Redis(url, { username: 'tester', password: 'tester', enableReadyCheck: false });
      admin.on('error', () => {});
      return admin;
    }),
  );
}

async function setPasswords(doors: readonly Admin[], user: string, passwords: readonly string[]): Promise<void> {
  const rule = ['on', 'resetpass', ...passwords.map((password) => `>${password}`), '+@all', '~*', '&*'];
  await Promise.all(doors.map((admin) => admin.call('ACL', 'SETUSER', user, ...rule)));
}

async function cutAt(servers: readonly Admin[]): Promise<void> {
  for (const type of ['normal', 'pubsub']) {
    await Promise.all(servers.map((admin) => admin.call('CLIENT', 'KILL', 'TYPE', type, 'SKIPME', 'yes')));
  }
}

async function stopAll(admins: readonly Admin[], servers: { stop(): Promise<void> }): Promise<void> {
  for (const admin of admins) {
    admin.disconnect();
  }
  await servers.stop();
}
