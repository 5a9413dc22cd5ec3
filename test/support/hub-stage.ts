import { silentLogger } from '../../src/base/logger.js';
import type { ChannelListener } from '../../src/broker/broker.js';
import type { Connection, Outgoing } from '../../src/hub/connection.js';
import { Hub, type HubOptions } from '../../src/hub/hub.js';
import type { HubClient } from '../../src/hub/hub-client.js';
import { Subscription } from '../../src/hub/subscription.js';
import { TaskwireError } from '../../src/protocol/errors.js';
import type { TaskEvent } from '../../src/protocol/events.js';
import type { Position, SubscribeRequest } from '../../src/protocol/messages.js';
import { parseRoom } from '../../src/protocol/rooms.js';
import { encodeStreamMessage } from '../../src/protocol/stream-message.js';
import { ReferenceLog, USER } from './hub-log.js';
import { HUB_OPTIONS } from './hub-options.js';

/** What a hub reads of its log. */
export type Read = 'heads' | 'read' | 'state' | 'snapshot';

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Lets everything happen that waits for nothing but its turn. */
export async function settled(): Promise<void> {
  for (let turns = 0; turns < 50; turns += 1) {
    await turn();
  }
}

/** A connection that notes in words what it is given: `event 3`, `JOB_TASKS_SNAPSHOT 2`. */
export class StageClient implements Connection {
  readonly identity = { keyId: 'k', owner: USER, role: 'user' as const, rateLimit: 1 };
  readonly got: string[] = [];
  /** Answers to its subscriptions, in the order in which they came: what was joined, or the code of the refusal. */
  readonly answers: unknown[] = [];
  closedWith: string | undefined;
  readonly hubClient: HubClient;

  /** @param waiting bytes that wait to be sent, whenever the hub looks */
  constructor(
    readonly id: string,
    hub: Hub,
    private readonly waiting: () => number,
  ) {
    this.hubClient = hub.connect(this);
  }

  get backlog(): number {
    return this.waiting();
  }

  deliver({ type, payload }: Outgoing): void {
    const { seq } = JSON.parse(payload.toString()) as { seq: number };
    this.got.push(`${type === 'TASK_UPDATED' ? 'event' : type} ${seq}`);
  }

  close(code: string): void {
    this.closedWith ??= code;
    this.hubClient.close();
  }

  /**
   * Asks for a room, and lets happen what can.
   * @param head the log's head when the room's owner was looked up
   */
  async subscribe(room: string, asked: Omit<SubscribeRequest, 'room'> = {}, head?: Position): Promise<void> {
    const subscription = new Subscription(parseRoom(room), asked, (outcome) =>
      this.answers.push(outcome instanceof TaskwireError ? outcome.code : outcome),
    );
    this.hubClient.subscribe({ userId: USER, head }, subscription);
    await settled();
  }
}

/**
 * A hub over a log and a broker that do what the test says, step by step. The log answers at once, unless its reads are
 * held; a held read is answered as of when it was asked.
 */
export class HubStage {
  readonly log = new ReferenceLog();
  readonly hub: Hub;
  /** What was read of the log. */
  readonly reads: Read[] = [];
  private readonly held = new Map<Read, Array<() => void>>();
  private failing: Read | undefined;
  private listener: ChannelListener | undefined;
  private up = true;
  private onUp = (): void => {};
  private onDown = (): void => {};
  private now = 0;

  constructor(options: Partial<HubOptions> = {}) {
    const up = (): boolean => this.up;
    this.hub = new Hub(
      {
        get up() {
          return up();
        },
        onUp: (listener) => {
          this.onUp = listener;
        },
        onDown: (listener) => {
          this.onDown = listener;
        },
        subscribe: async (_channel, listener) => {
          this.listener = listener;
        },
        unsubscribe: async () => {
          this.listener = undefined;
        },
      },
      {
        heads: (userIds) => this.answer('heads', new Map(userIds.map((userId) => [userId, this.log.state()]))),
        read: (query) => this.answer('read', this.log.read(query)),
        state: () => this.answer('state', this.log.state()),
        snapshot: (room, limit, _bytes, before) =>
          this.answer('snapshot', { ...this.log.state(), userId: USER, ...this.log.tasks(room.name, limit, before) }),
      },
      { ...HUB_OPTIONS, MAX_BUFFERED_BYTES: 1_000, ...options },
      silentLogger,
      {
        now: () => this.now,
        sleep: async (ms) => {
          this.now += ms;
          await turn();
        },
      },
    );
  }

  /** A client; `room` is joined when it is given. */
  async connect(room?: string, waiting = (): number => 0): Promise<StageClient> {
    const client = new StageClient('c', this.hub, waiting);
    if (room !== undefined) {
      await client.subscribe(room, { snapshot: false });
    }
    return client;
  }

  /** Commits so many events of task 1. */
  write(count = 1): TaskEvent[] {
    return Array.from({ length: count }, () => this.log.write(1));
  }

  /** The broker brings what it was given, in one read. */
  async publish(...events: readonly TaskEvent[]): Promise<void> {
    this.listener?.(events.map(encodeStreamMessage));
    await settled();
  }

  loseBroker(): void {
    this.up = false;
    this.onDown();
  }

  regainBroker(): void {
    this.up = true;
    this.onUp();
  }

  /** The next read of this kind fails. */
  fail(kind: Read): void {
    this.failing = kind;
  }

  /** Reads of this kind are answered when they are released. */
  hold(kind: Read): void {
    this.held.set(kind, []);
  }

  /** Answers the reads that are held, and later ones at once. */
  async release(kind: Read): Promise<void> {
    const waiting = this.held.get(kind) ?? [];
    this.held.delete(kind);
    for (const answer of waiting) {
      answer();
    }
    await settled();
  }

  private answer<T>(kind: Read, value: T): Promise<T> {
    this.reads.push(kind);
    if (this.failing === kind) {
      this.failing = undefined;
      return Promise.reject(new TaskwireError('DATABASE_UNAVAILABLE'));
    }
    const held = this.held.get(kind);
    return held === undefined ? Promise.resolve(value) : new Promise((resolve) => held.push(() => resolve(value)));
  }
}
