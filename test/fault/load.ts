import { setTimeout as sleep } from 'node:timers/promises';
import { silentLogger } from '../../src/base/logger.js';
import { Publisher } from '../../src/broker/publisher.js';
import { RedisBroker } from '../../src/broker/redis/redis-broker.js';
import type { RedisSettings } from '../../src/broker/redis/redis-settings.js';
import { connectDatabase } from '../../src/database/connect-database.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import type { TaskWrite } from '../../src/repository/write-runner.js';
import { RestWrites, type Scene } from '../support/scene.js';
import { random, Writer } from '../support/writers.js';

/** Where a load writes. */
export interface LoadStage {
  readonly seed: number;
  readonly scene: Scene;
  /** The way to Postgres that faults hit. */
  readonly proxiedUrl: string;
  /** The server itself. */
  readonly databaseUrl: string;
  readonly redis: RedisSettings;
  /** Addresses of the instances. */
  readonly urls: () => readonly string[];
  /** Waits until one more write is wanted. @returns whether one is; otherwise the load ends */
  readonly pace: () => Promise<boolean>;
}

/** Who writes while things are broken. */
export interface Load {
  /** Writes that were answered well, and those that were not. */
  readonly written: number;
  readonly failed: number;
  /** Prepares the database, before anybody reads it. */
  prepare(): Promise<void>;
  /** Writes until no more is wanted. */
  run(): Promise<void>;
  /** What is wrong with what was written, once all is over. */
  problems(): Promise<string[]>;
  /** What is told of it beside that. */
  readonly figures?: Readonly<Record<string, number>>;
}

const WRITERS = 8;
/** What a writer waits after a failure, in milliseconds. */
const WRITE_RETRY_MS = 50;

/** A repository with a publisher of its own, as another program has one. */
export async function publishingRepository(
  stage: LoadStage,
  pool: number,
): Promise<{ repository: TaskRepository; stop(): Promise<void> }> {
  const db = connectDatabase({ url: stage.proxiedUrl, pool });
  const broker = new RedisBroker({ ...stage.redis, prefix: 'taskwire', logger: silentLogger });
  await broker.start();
  return {
    repository: new TaskRepository(db, new Publisher(broker, silentLogger)),
    async stop() {
      await broker.stop();
      await db.destroy();
    },
  };
}

/** Half of the writers use REST, the others the repository. Each has tasks of its own. */
export class PlainLoad implements Load {
  failed = 0;
  private readonly writes: TaskWrite[] = [];

  constructor(private readonly stage: LoadStage) {}

  get written(): number {
    return this.writes.length;
  }

  async prepare(): Promise<void> {}

  async run(): Promise<void> {
    const { seed, scene, urls, pace } = this.stage;
    const rest = new RestWrites(urls, scene.serviceKey);
    const { repository, stop } = await publishingRepository(this.stage, WRITERS);
    const writers = Array.from(
      { length: WRITERS },
      (_, index) => new Writer(index % 2 === 0 ? rest : repository, scene.jobs, random(seed * 100 + index)),
    );
    await Promise.all(
      writers.map(async (writer) => {
        while (await pace()) {
          try {
            this.writes.push(await writer.write());
          } catch {
            this.failed += 1;
            await sleep(WRITE_RETRY_MS);
          }
        }
      }),
    );
    await stop();
  }

  /** Writes that were answered well must be in the log at the place that the answer gave. */
  async problems(): Promise<string[]> {
    const { rows } = (await this.stage.scene.db.raw('SELECT user_id, seq, task_id FROM task_events')) as {
      rows: Array<{ user_id: string; seq: string; task_id: string }>;
    };
    const logged = new Set(rows.map(({ user_id, seq, task_id }) => `${user_id} ${seq} ${task_id}`));
    return this.writes
      .map(({ user_id, seq, task_id }) => `${user_id} ${seq} ${task_id}`)
      .filter((place) => !logged.has(place))
      .map((place) => `${place} was answered well and is not in the log`);
  }
}
