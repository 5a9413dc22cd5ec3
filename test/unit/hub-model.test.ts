import { expect } from 'chai';
import fc from 'fast-check';
import type { ChannelListener } from '../../src/broker/broker.js';
import type { Connection, Outgoing } from '../../src/hub/client.js';
import { Hub, type HubClient } from '../../src/hub/hub.js';
import { silentLogger } from '../../src/logger.js';
import { TaskwireError } from '../../src/protocol/errors.js';
import type { TaskEvent } from '../../src/protocol/events.js';
import type { SubscribeResult } from '../../src/protocol/messages.js';
import { parseRoom } from '../../src/protocol/rooms.js';
import { encodeStreamMessage } from '../../src/protocol/stream-message.js';
import type { ReplayPage, ReplayQuery, ReplayState, Snapshot } from '../../src/repository/log.js';

const USER = 'u';
const EPOCH = 'epoch1';
/** Tasks 1 and 2 belong to job 1, task 3 to job 2. */
const JOB_OF = ['', '1', '1', '2'];
const ROOMS = ['job:1', 'job:2', 'task:1', 'task:2', 'task:3', 'user:u'];

const inRoom = (event: { jobId: string; taskId: number }, room: string): boolean =>
  room === `user:${USER}` || room === `job:${event.jobId}` || room === `task:${event.taskId}`;

/** The truth: what was committed, and up to where the log was trimmed. */
class ReferenceLog {
  readonly events: TaskEvent[] = [];
  floor = 0;

  write(taskId: number): TaskEvent {
    const seq = this.events.length + 1;
    const event: TaskEvent = {
      type: 'TASK_UPDATED',
      userId: USER,
      seq,
      epoch: EPOCH,
      jobId: JOB_OF[taskId]!,
      taskId,
      changes: `{"n":${seq}}`,
      timestamp: '2024-01-01T00:00:00.000Z',
    };
    this.events.push(event);
    return event;
  }

  state(): ReplayState {
    return { seq: this.events.length, epoch: EPOCH, floor: this.floor };
  }

  read({ rooms, limit }: ReplayQuery): ReplayPage {
    const found = this.events.filter(
      (event) =>
        event.seq > this.floor &&
        rooms.some(({ kind, id, after }) => event.seq > after && inRoom(event, `${kind}:${id}`)),
    );
    return { ...this.state(), events: found.slice(0, limit), complete: found.length <= limit };
  }
}

/** Reads of the log that are under way: each is answered when the test says so, as of the call or as of the answer. */
class Gate {
  private readonly waiting: Array<() => void> = [];
  private calls = 0;

  run<T>(compute: () => T): Promise<T> {
    this.calls += 1;
    const early = this.calls % 2 === 0 ? { value: compute() } : undefined;
    return new Promise((resolve) => {
      this.waiting.push(() => resolve(early === undefined ? compute() : early.value));
    });
  }

  release(pick: number): boolean {
    const [next] = this.waiting.splice(pick % Math.max(1, this.waiting.length), 1);
    next?.();
    return next !== undefined;
  }
}

interface Subscription {
  readonly room: string;
  /** Number of messages that the connection had got when it asked. */
  readonly askedAt: number;
  ackedAt: number;
  leftAt: number;
  since: number | undefined;
  result: SubscribeResult | TaskwireError | undefined;
}

class Client implements Connection {
  readonly identity = { keyId: 'k', owner: USER, role: 'user' as const, rateLimit: 1 };
  readonly backlog = 0;
  readonly got: Array<{ type: string; seq: number; jobId: string; taskId: number; jobSnapshot?: string }> = [];
  readonly subscriptions: Subscription[] = [];
  closedWith: string | undefined;
  readonly hubClient: HubClient;

  constructor(
    readonly id: string,
    hub: Hub,
  ) {
    this.hubClient = hub.connect(this);
  }

  deliver({ type, payload }: Outgoing): void {
    const message = JSON.parse(payload.toString());
    this.got.push({
      type,
      seq: message.seq,
      jobId: String(message.data.job_id),
      taskId: message.data.task_id,
    });
  }

  close(code: string): void {
    this.closedWith = code;
    this.hubClient.close();
  }

  subscribe(room: string, since: number | undefined): void {
    // A session asks for a room again only when the answer to the first time is there.
    if (this.subscriptions.some((before) => before.room === room && before.result === undefined)) {
      return;
    }
    const subscription: Subscription = {
      room,
      since,
      askedAt: this.got.length,
      ackedAt: Number.POSITIVE_INFINITY,
      leftAt: Number.POSITIVE_INFINITY,
      result: undefined,
    };
    // Asking again for a room ends what was asked before.
    for (const before of this.subscriptions) {
      if (before.room === room && before.leftAt === Number.POSITIVE_INFINITY) {
        before.leftAt = this.got.length;
      }
    }
    this.subscriptions.push(subscription);
    this.hubClient.join(USER, {
      request: { room: parseRoom(room), since },
      reply: (result) => {
        subscription.result = result;
        subscription.ackedAt = this.got.length;
      },
    });
  }

  unsubscribe(room: string): void {
    const subscription = this.subscriptions.findLast((item) => item.room === room);
    // A session lets UNSUBSCRIBE wait for the SUBSCRIBE before it; here it is only asked for what was joined.
    if (subscription?.result !== undefined && subscription.leftAt === Number.POSITIVE_INFINITY) {
      this.hubClient.leave(parseRoom(room));
      subscription.leftAt = this.got.length;
    }
  }
}

type Step =
  | { do: 'write'; task: number }
  | { do: 'publish' | 'duplicate' | 'drop' | 'answer'; pick: number }
  | { do: 'subscribe'; client: number; room: number; back: number | undefined }
  | { do: 'unsubscribe'; client: number; room: number }
  | { do: 'reconcile' | 'turn' }
  | { do: 'trim'; keep: number };

const natural = fc.nat({ max: 7 });
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ do: fc.constant('write' as const), task: fc.integer({ min: 1, max: 3 }) }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('publish' as const), pick: natural }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constantFrom('duplicate' as const, 'drop' as const), pick: natural }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('answer' as const), pick: natural }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('subscribe' as const),
      client: fc.nat({ max: 2 }),
      room: fc.nat({ max: ROOMS.length - 1 }),
      back: fc.option(fc.integer({ min: -2, max: 12 }), { nil: undefined }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant('unsubscribe' as const),
      client: fc.nat({ max: 2 }),
      room: fc.nat({ max: ROOMS.length - 1 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constantFrom('reconcile' as const, 'turn' as const) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('trim' as const), keep: fc.nat({ max: 12 }) }) },
);

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

class World {
  readonly log = new ReferenceLog();
  readonly gate = new Gate();
  readonly hub: Hub;
  readonly clients: Client[];
  private listener: ChannelListener | undefined;
  private onTheWay: Buffer[] = [];

  constructor(repairs = true) {
    const { log, gate } = this;
    this.hub = new Hub(
      {
        up: true,
        onUp() {},
        onDown() {},
        subscribe: async (_channel, listener) => {
          this.listener = listener;
        },
        unsubscribe: async () => {
          this.listener = undefined;
        },
      },
      {
        heads: (userIds) => gate.run(() => new Map(userIds.map((userId) => [userId, log.state()]))),
        read: (query) =>
          repairs ? gate.run(() => log.read(query)) : gate.run(() => ({ ...log.state(), events: [], complete: true })),
        state: () => gate.run(() => log.state()),
        snapshot: (room): Promise<Snapshot> =>
          gate.run(() => ({ ...log.state(), userId: room.id, tasks: '[]', truncated: false })),
      },
      {
        RING_EVENTS: 4,
        RING_BYTES: 1_000_000,
        RECONCILE_MS: 1_000,
        RECONCILE_IDLE_MS: 1_000,
        REPLAY_PAGE: 3,
        REPLAY_CONCURRENCY: 2,
        MAX_SNAPSHOT_TASKS: 10,
        MAX_BUFFERED_BYTES: 1_000_000,
        POSITION_INTERVAL_MS: 1_000_000,
      },
      silentLogger,
    );
    this.clients = ['a', 'b', 'c'].map((id) => new Client(id, this.hub));
  }

  async run(action: Step): Promise<void> {
    switch (action.do) {
      case 'write':
        this.onTheWay.push(encodeStreamMessage(this.log.write(action.task)));
        break;
      case 'publish': {
        const [message] = this.onTheWay.splice(action.pick % Math.max(1, this.onTheWay.length), 1);
        if (message !== undefined) {
          this.listener?.([message]);
        }
        break;
      }
      case 'duplicate': {
        const message = this.onTheWay[action.pick % Math.max(1, this.onTheWay.length)];
        if (message !== undefined) {
          this.listener?.([message, message]);
        }
        break;
      }
      case 'drop':
        this.onTheWay.splice(action.pick % Math.max(1, this.onTheWay.length), 1);
        break;
      case 'answer':
        this.gate.release(action.pick);
        break;
      case 'subscribe': {
        const since = action.back === undefined ? undefined : Math.max(0, this.log.events.length - action.back);
        const client = this.clients[action.client]!;
        if (client.closedWith === undefined) {
          client.subscribe(ROOMS[action.room]!, since);
        }
        break;
      }
      case 'unsubscribe':
        this.clients[action.client]!.unsubscribe(ROOMS[action.room]!);
        break;
      case 'reconcile':
        void this.hub.reconcile();
        break;
      case 'trim':
        this.log.floor = Math.max(this.log.floor, this.log.events.length - action.keep);
        break;
      case 'turn':
        break;
    }
    await turn();
  }

  /** Lets everything that is under way come to its end, without any further help from the broker. */
  async settle(): Promise<void> {
    this.onTheWay = [];
    for (let round = 0; round < 6 || this.clients.some((client) => this.waits(client)); round += 1) {
      expect(round, 'everything that is asked for is answered').to.be.below(500);
      void this.hub.reconcile();
      await turn();
      while (this.gate.release(0)) {
        await turn();
      }
      await turn();
    }
  }

  async stop(): Promise<void> {
    await this.hub.stop();
  }

  private waits(client: Client): boolean {
    return client.closedWith === undefined && client.subscriptions.some(({ result }) => result === undefined);
  }

  /** Holds what every connection got against the log. */
  check(): void {
    for (const client of this.clients) {
      const events = client.got.filter(({ type }) => type === 'TASK_UPDATED');
      if (client.closedWith === undefined) {
        for (const subscription of client.subscriptions) {
          this.checkRoom(client, subscription);
        }
      }
      // Whoever leaves a room and asks for it or an overlapping one with an old position wants copies.
      const leaves = client.subscriptions.some(({ leftAt }) => leftAt !== Number.POSITIVE_INFINITY);
      if (!leaves) {
        expect(new Set(events.map(({ seq }) => seq)).size, 'each event once per connection').to.equal(events.length);
      }
    }
  }

  private checkRoom(client: Client, { room, since, askedAt, ackedAt, leftAt, result }: Subscription): void {
    expect(result, 'every SUBSCRIBE is answered').to.not.equal(undefined);
    if (result === undefined || result instanceof TaskwireError) {
      expect(result?.code).to.equal('STREAM_RESET');
      return;
    }
    const snapshotType = room.startsWith('job') ? 'JOB_TASKS_SNAPSHOT' : /^task/.test(room) ? 'TASK_SNAPSHOT' : 'USER_';
    const between = client.got.slice(askedAt, ackedAt);
    const snapshot = between.findLast(
      ({ type, jobId, taskId }) =>
        type.startsWith(snapshotType) &&
        (room.startsWith('user') || room === `job:${jobId}` || room === `task:${taskId}`),
    );
    if (result.recovered) {
      expect(since, 'recovered only where a position was given').to.not.equal(undefined);
    } else if (since !== undefined || room.startsWith('job')) {
      expect(snapshot, 'what is not recovered is replaced by a snapshot').to.not.equal(undefined);
    }
    const seqs = (from: number, to: number): number[] =>
      client.got
        .slice(from, to)
        .filter((message) => message.type === 'TASK_UPDATED' && inRoom(message, room))
        .map(({ seq }) => seq);
    // Another room that is asked for with an older position may bring older events of this one along.
    const live = seqs(ackedAt, leftAt).filter((seq) => seq > result.seq);
    const upTo = leftAt === Number.POSITIVE_INFINITY ? this.log.events.length : (live.at(-1) ?? result.seq);
    const expected = (after: number, last: number): number[] =>
      this.log.events
        .filter((event) => event.seq > after && event.seq <= last && inRoom(event, room))
        .map(({ seq }) => seq);
    expect(live, `${room} after the acknowledgement at ${result.seq}`).to.deep.equal(expected(result.seq, upTo));
    const base = result.recovered ? since! : snapshot?.seq;
    if (base !== undefined) {
      const had = new Set(seqs(0, ackedAt));
      const missed = expected(base, result.seq).filter((seq) => !had.has(seq));
      expect(missed, `${room} since ${base}, before the acknowledgement`).to.deep.equal([]);
    }
  }
}

describe('hub against a reference', () => {
  it('gives every connection each event of its rooms once and in order, whatever the interleaving', async function () {
    this.timeout(120_000);
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 80 }), async (steps) => {
        const world = new World();
        try {
          for (const action of steps) {
            await world.run(action);
          }
          await world.settle();
          world.check();
        } finally {
          await world.stop();
        }
      }),
      { numRuns: 1_000 },
    );
  });

  it('fails when repair from the log is switched off', async () => {
    const world = new World(false);
    world.clients[0]!.subscribe('user:u', undefined);
    await world.settle();
    for (const action of [
      { do: 'write', task: 1 },
      { do: 'drop', pick: 0 },
      { do: 'write', task: 1 },
      { do: 'publish', pick: 0 },
    ] as const) {
      await world.run(action);
    }
    await world.settle();
    expect(() => world.check()).to.throw(/after the acknowledgement/);
    await world.stop();
  });
});
