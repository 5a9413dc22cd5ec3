import { setImmediate as turn } from 'node:timers/promises';
import { Emitter } from '@socket.io/redis-emitter';
import { Redis } from 'ioredis';
import type { Knex } from 'knex';
import { Publisher } from '../../src/broker/publisher.js';
import { RedisBroker } from '../../src/broker/redis/redis-broker.js';
import { connectDatabase } from '../../src/database/connect-database.js';
import { preparedQuery } from '../../src/database/query.js';
import { envelopeText, type TaskEvent } from '../../src/protocol/events.js';
import { TaskRepository } from '../../src/repository/task-repository.js';
import { PLACE } from '../load/frames.js';
import { micros } from './clock.js';
import { quiet } from './quiet.js';
import type { Tally } from './tally.js';
import type { Job, World } from './world.js';

/** Bytes of every variant's envelopes, to within a few. */
export const ENVELOPE_BYTES = 500;

/** Sends events to rooms, by their number, and counts each in the tally when it is sent to the servers. */
export interface Injector {
  /** Sends events as fast as they go, in this order. */
  burst(rooms: readonly number[]): Promise<void>;
  /** Sends events that are due now. */
  send(rooms: readonly number[]): void;
  /** Resolves when all that is due has been sent. */
  idle(): Promise<void>;
  stop(): Promise<void>;
}

/** Events that leave in one turn of the event loop in a burst. */
const CHUNK = 500;

async function inChunks<Item>(items: readonly Item[], send: (part: readonly Item[]) => void): Promise<void> {
  for (let from = 0; from < items.length; from += CHUNK) {
    send(items.slice(from, from + CHUNK));
    await turn();
  }
}

/** Fills up an envelope: the length of the field that makes `text` as long as all are. */
const padding = (text: string): string => 'x'.repeat(Math.max(1, ENVELOPE_BYTES - text.length));

/**
 * Sends envelopes to Redis as the peers' documentation shows it: in a burst nothing else, at a rate each after the commit of a
 * bare update of its row, as an application would.
 */
export class PeerInjector implements Injector {
  private readonly redis: Redis;
  private readonly db: Knex;
  private readonly seqs: Float64Array;
  private readonly emit: (room: string, type: string, envelope: object) => void;
  private readonly writes = new Set<Promise<void>>();
  private failure: unknown;

  constructor(
    kind: 'emitter' | 'publish',
    redisUrl: string,
    private readonly world: World,
    private readonly tally: Tally,
  ) {
    this.redis = new Redis(redisUrl);
    this.db = connectDatabase({ url: world.databaseUrl, pool: WRITERS });
    this.seqs = new Float64Array(world.jobs.length);
    const namespace = new Emitter(this.redis).of(PLACE);
    this.emit =
      kind === 'emitter'
        ? (room, type, envelope) => void namespace.to(room).emit(type, envelope)
        : (room, _type, envelope) => void this.redis.publish(room, JSON.stringify(envelope));
  }

  async burst(rooms: readonly number[]): Promise<void> {
    await inChunks(rooms, (part) => {
      for (const room of part) {
        this.publish(room, this.seqs[room]!);
      }
    });
  }

  send(rooms: readonly number[]): void {
    for (const room of rooms) {
      const write = this.write(room).catch((error: unknown) => {
        this.failure ??= error;
      });
      this.writes.add(write);
      void write.finally(() => this.writes.delete(write));
    }
  }

  async idle(): Promise<void> {
    await Promise.all(this.writes);
    // Commands are answered in order: with this one all before it have been.
    await this.redis.ping();
    if (this.failure !== undefined) {
      throw this.failure;
    }
  }

  async stop(): Promise<void> {
    this.redis.disconnect();
    await this.db.destroy();
  }

  private async write(room: number): Promise<void> {
    const { taskIds } = this.world.jobs[room]!;
    const turn = this.seqs[room]! + this.writes.size;
    await preparedQuery(this.db, 'UPDATE tasks SET proof_of_task = ?::text WHERE task_id = ? RETURNING task_id', [
      PROOF,
      taskIds[turn % taskIds.length]!,
    ]);
    this.publish(room, turn);
  }

  private publish(room: number, turn: number): void {
    const { jobId, userId, taskIds } = this.world.jobs[room]!;
    this.seqs[room]! += 1;
    const timestamp = new Date().toISOString();
    const ids = { task_id: taskIds[turn % taskIds.length]!, job_id: jobId, user_id: userId };
    const changes = { ...ids, proof_of_task: '' };
    const envelope = { type: 'TASK_UPDATED', seq: this.seqs[room]!, data: { ...ids, changes, timestamp }, timestamp };
    changes.proof_of_task = padding(JSON.stringify(envelope));
    this.tally.add(room, envelope.seq, micros());
    this.emit(`job:${jobId}`, envelope.type, envelope);
  }
}

/** About as long as what makes an envelope as long as all are. */
const PROOF = 'x'.repeat(ENVELOPE_BYTES / 2);

/** Writers side by side, of different owners, and tasks of one owner that one statement writes at most. */
const WRITERS = 8;
const BATCH = 50;
const BURST_BATCH = 500;

/**
 * Writes rows through the repository: each event is a committed write, published after its commit. What is due for one owner at
 * a time is written by one statement.
 */
export class RepositoryInjector implements Injector {
  private readonly db: Knex;
  private readonly broker: RedisBroker;
  private readonly publisher: Publisher;
  private readonly tasks: TaskRepository;
  private readonly rooms: Map<string, number>;
  private readonly cursors: Uint32Array;
  private readonly proof: string;
  private readonly started: Promise<void>;
  /** Rooms whose events are due, by owner; owners that a writer is at are not in `waiting`. */
  private readonly due = new Map<string, number[]>();
  private readonly waiting: string[] = [];
  private readonly busy = new Set<string>();
  private batch = BATCH;
  /** Committed events that wait for the burst. */
  private held: TaskEvent[] | undefined;
  private failure: unknown;
  private idleListeners: Array<() => void> = [];

  constructor(
    redisUrl: string,
    private readonly world: World,
    private readonly tally: Tally,
  ) {
    this.db = connectDatabase({ url: world.databaseUrl, pool: WRITERS });
    this.broker = new RedisBroker({ url: redisUrl, prefix: 'taskwire', logger: quiet });
    this.publisher = new Publisher(this.broker, quiet);
    this.tasks = new TaskRepository(this.db, { publish: (events) => this.publish(events) });
    this.rooms = new Map(world.jobs.map(({ jobId }, room) => [jobId, room]));
    this.cursors = new Uint32Array(world.jobs.length);
    this.proof = padding(sampleEnvelope(world.jobs[world.jobs.length >> 1]!));
    this.started = this.broker.start();
  }

  /**
   * Commits all rows first and publishes their events then, at once: a burst from a writer that is not the bottleneck. Of
   * what it publishes each event is the finished one that its own commit made.
   */
  async burst(rooms: readonly number[]): Promise<void> {
    await this.started;
    this.held = [];
    this.batch = BURST_BATCH;
    this.send(rooms);
    await this.idle();
    const { held } = this;
    this.held = undefined;
    this.batch = BATCH;
    await inChunks(held, (part) => this.publish(part));
  }

  send(rooms: readonly number[]): void {
    for (const room of rooms) {
      const { userId } = this.world.jobs[room]!;
      const due = this.due.get(userId);
      if (due !== undefined) {
        due.push(room);
      } else {
        this.due.set(userId, [room]);
        if (!this.busy.has(userId)) {
          this.waiting.push(userId);
        }
      }
    }
    this.pump();
  }

  async idle(): Promise<void> {
    if (this.due.size > 0 || this.busy.size > 0) {
      await new Promise<void>((resolve) => this.idleListeners.push(resolve));
    }
    if (this.failure !== undefined) {
      throw this.failure;
    }
    if (this.publisher.failed > 0) {
      throw new Error(`${this.publisher.failed} events were not published`);
    }
  }

  async stop(): Promise<void> {
    await this.broker.stop();
    await this.db.destroy();
  }

  private publish(events: readonly TaskEvent[]): void {
    if (this.held !== undefined) {
      this.held.push(...events);
      return;
    }
    const now = micros();
    for (const { jobId, seq } of events) {
      this.tally.add(this.rooms.get(jobId)!, seq, now);
    }
    this.publisher.publish(events);
  }

  private pump(): void {
    while (this.busy.size < WRITERS && this.waiting.length > 0) {
      const owner = this.waiting.shift()!;
      const due = this.due.get(owner)!;
      const rooms = due.splice(0, this.batch);
      if (due.length === 0) {
        this.due.delete(owner);
      }
      this.busy.add(owner);
      this.write(owner, rooms)
        .catch((error: unknown) => {
          this.failure ??= error;
        })
        .finally(() => {
          this.busy.delete(owner);
          if (this.due.has(owner)) {
            this.waiting.push(owner);
          }
          this.pump();
          if (this.due.size === 0 && this.busy.size === 0) {
            for (const listener of this.idleListeners.splice(0)) {
              listener();
            }
          }
        });
    }
  }

  private async write(owner: string, rooms: readonly number[]): Promise<void> {
    const fields = { proof_of_task: this.proof };
    const ids = rooms.map((room) => {
      const { taskIds } = this.world.jobs[room]!;
      this.cursors[room]! += 1;
      return taskIds[this.cursors[room]! % taskIds.length]!;
    });
    if (ids.length === 1) {
      await this.tasks.updateTaskExecutionData(ids[0]!, fields);
      return;
    }
    const updates = ids.map((task_id) => ({ kind: 'execution' as const, task_id, ...fields }));
    const outcomes = await this.tasks.updateManyTaskData(owner, updates);
    const error = outcomes.find((outcome) => outcome instanceof Error);
    if (error !== undefined) {
      throw error;
    }
  }
}

/** An envelope of a job as Postgres prints it, with an empty field to be filled. */
function sampleEnvelope({ jobId, userId, taskIds }: Job): string {
  const taskId = taskIds[0]!;
  return envelopeText({
    type: 'TASK_UPDATED',
    userId,
    jobId,
    taskId,
    seq: 1_000,
    epoch: '',
    changes: `{"job_id": "${jobId}", "task_id": ${taskId}, "user_id": "${userId}", "proof_of_task": ""}`,
    timestamp: new Date().toISOString(),
  });
}
