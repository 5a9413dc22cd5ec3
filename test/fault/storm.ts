import { connectDatabase } from '../../src/database/connect-database.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { Account } from '../support/account.js';
import { eventually } from '../support/eventually.js';
import { Instance } from '../support/instance.js';
import { startPostgres } from '../support/postgres.js';
import { startRedis } from '../support/redis.js';
import { Scene } from '../support/scene.js';
import { Subscriber } from '../support/subscriber.js';
import { startTcpProxy } from '../support/tcp-proxy.js';
import { random, Writer, writeAll } from '../support/writers.js';

const USERS = 20;
const JOBS_PER_USER = 5;
const WRITERS = 4;
const PRELOAD = new URL('../support/loop-delay.js', import.meta.url).href;

export interface StormReport {
  readonly clients: number;
  /** Events that were written while all were away. */
  readonly missed: number;
  /** From the instance's death until every client was live on the other one, in seconds. */
  readonly seconds: number;
  readonly replayed: number;
  readonly unrecovered: number;
  readonly refusals: number;
  readonly problems: readonly string[];
  /** Longest delay of the event loop of any process of the instance that took them, in milliseconds. */
  readonly loopDelayMs: number;
  /** The same while nothing happened, which is what the machine and the timer's resolution make. */
  readonly idleLoopDelayMs: number;
}

/** Kills an instance with all its clients, who come back to another one at once and resume their job rooms. */
export async function runStorm({ clients, writes }: { clients: number; writes: number }): Promise<StormReport> {
  const [postgres, redis] = await Promise.all([startPostgres(), startRedis()]);
  const databaseUrl = await postgres.createDatabase();
  const scene = await Scene.make(databaseUrl, { users: USERS, jobsPerUser: JOBS_PER_USER });
  const env = { DATABASE_URL: databaseUrl, REDIS_URL: redis.url };
  const doomed = await Instance.start({ env });
  const target = { port: doomed.port };
  const balancer = await startTcpProxy(target);
  const subscribers: Subscriber[] = [];
  let heir: Instance | undefined;
  const db = connectDatabase({ url: databaseUrl, pool: WRITERS });
  try {
    const url = `http://127.0.0.1:${balancer.port}`;
    for (let index = 0; index < clients; index += 1) {
      const { jobId, userId } = scene.jobs[index % scene.jobs.length]!;
      const wire = index % 2 === 0 ? 'websocket' : 'socket.io';
      subscribers.push(new Subscriber(wire, url, scene.keys.get(userId)!, [`job:${jobId}`]));
    }
    const had = new Map<Subscriber, number>();
    /** Resolves when every client has all of its rooms on a connection that it had not before. */
    const live = (): Promise<void> =>
      eventually(
        () => {
          const missing = subscribers.filter((one) => !one.live || one.connections <= (had.get(one) ?? 0)).length;
          if (missing > 0) {
            throw new Error(`${missing} of ${clients} clients are not live`);
          }
        },
        { timeoutMs: 120_000, intervalMs: 20 },
      );
    await live();
    const repository = new TaskRepository(db, { publish() {} });
    const write = (count: number): Promise<unknown> =>
      writeAll(
        Array.from({ length: WRITERS }, (_, index) => new Writer(repository, scene.jobs, random(index))),
        count,
      );
    await write(writes);
    const account = new Account(scene.db);
    await Promise.all(subscribers.map((subscriber) => account.settle(subscriber)));

    heir = await Instance.start({ env, preload: PRELOAD });
    for (const subscriber of subscribers) {
      had.set(subscriber, subscriber.connections);
    }
    balancer.setMode('refuse');
    await doomed.kill();
    await write(writes);
    const idle = heir.log.length;
    await eventually(() => {
      if (worstDelay(heir!, idle) === 0) {
        throw new Error('no word of the event loop yet');
      }
    });
    const before = heir.log.length;
    const idleLoopDelayMs = worstDelay(heir, idle);
    target.port = heir.port;
    const start = performance.now();
    balancer.setMode('pass');
    await live();
    const seconds = (performance.now() - start) / 1_000;
    const problems: string[] = [];
    const after = new Account(scene.db);
    for (const subscriber of subscribers) {
      await after.settle(subscriber).catch((error: Error) => problems.push(error.message));
    }
    const told = heir.log.length;
    await eventually(() => {
      if (worstDelay(heir!, told) === 0) {
        throw new Error('no word of the event loop yet');
      }
    });
    const sum = (figure: (subscriber: Subscriber) => number): number =>
      subscribers.reduce((total, subscriber) => total + figure(subscriber), 0);
    return {
      clients,
      missed: writes,
      seconds: Math.round(seconds * 10) / 10,
      replayed: sum(({ replayed }) => replayed),
      unrecovered: sum(({ unrecovered }) => unrecovered),
      refusals: sum(({ refusals }) => refusals.length),
      problems,
      loopDelayMs: worstDelay(heir, before),
      idleLoopDelayMs,
    };
  } finally {
    for (const subscriber of subscribers) {
      subscriber.close();
    }
    await Promise.all([doomed.kill(), heir?.kill()]);
    await db.destroy();
    await scene.close();
    await balancer.stop();
    await Promise.all([postgres.stop(), redis.stop()]);
  }
}

/** The longest delay that a process of the instance told of since a line of its log, in milliseconds; 0: none did. */
function worstDelay(instance: Instance, since: number): number {
  const delays = instance.log.slice(since).filter(({ message }) => message === 'event loop delay');
  return delays.reduce((worst, line) => Math.max(worst, Number(line['ms'])), 0);
}
