import { mock } from 'node:test';
import { expect } from 'chai';
import { silentLogger } from '../../src/base/logger.js';
import { streamChannel } from '../../src/broker/broker.js';
import type { Connection, Outgoing } from '../../src/hub/connection.js';
import { Hub } from '../../src/hub/hub.js';
import type { HubClient } from '../../src/hub/hub-client.js';
import { Subscription } from '../../src/hub/subscription.js';
import type { TaskwireError } from '../../src/protocol/errors.js';
import type { TaskEvent } from '../../src/protocol/events.js';
import type { SubscribeResult } from '../../src/protocol/messages.js';
import { parseRoom } from '../../src/protocol/rooms.js';
import { encodeStreamMessage } from '../../src/protocol/stream-message.js';
import { HUB_OPTIONS } from '../support/hub-options.js';

const POSITION_INTERVAL_MS = 60_000;

const event = (userId: string, seq: number): TaskEvent => ({
  type: 'TASK_UPDATED',
  userId,
  seq,
  epoch: 'e',
  jobId: '1',
  taskId: 1,
  changes: '{}',
  timestamp: '2024-01-01T00:00:00.000Z',
});

/** Lets time pass in steps of a second, in which the clock and the timers go together. */
function pass(ms: number): void {
  for (let passed = 0; passed < ms; passed += 1_000) {
    mock.timers.tick(1_000);
  }
}

/** A hub whose timers the test turns, over a broker that only remembers what is listened to. */
class Stage {
  readonly channels = new Map<string, (batch: readonly Buffer[]) => void>();
  readonly hub = new Hub(
    {
      up: true,
      onUp() {},
      onDown() {},
      subscribe: async (channel, listener) => {
        this.channels.set(channel, listener);
      },
      unsubscribe: async (channel) => {
        this.channels.delete(channel);
      },
    },
    {
      heads: async (userIds) => new Map(userIds.map((userId) => [userId, { seq: 0, epoch: 'e' }])),
      read: () => Promise.reject(new Error('nothing is missing')),
      state: () => Promise.reject(new Error('nothing is asked for')),
      snapshot: () => Promise.reject(new Error('none is asked for')),
    },
    { ...HUB_OPTIONS, POSITION_INTERVAL_MS },
    silentLogger,
    { now: Date.now, sleep: () => new Promise(setImmediate) },
  );

  get followed(): string[] {
    return [...this.channels.keys()].sort();
  }

  connect(owner: string): { client: HubClient; got: Outgoing[] } {
    const got: Outgoing[] = [];
    const connection: Connection = {
      id: owner,
      identity: { keyId: 'k', owner, role: 'user', rateLimit: 1 },
      backlog: 0,
      deliver: (message) => got.push(message),
      close() {},
    };
    return { client: this.hub.connect(connection), got };
  }

  async join(client: HubClient, owner: string, room: string): Promise<SubscribeResult | TaskwireError> {
    const outcome = await new Promise<SubscribeResult | TaskwireError>((reply) => {
      client.subscribe({ userId: owner }, new Subscription(parseRoom(room), { snapshot: false }, reply));
    });
    // What the hub does after its answer is done too.
    await new Promise((resolve) => setImmediate(resolve));
    return outcome;
  }

  publish(userId: string, seq: number): void {
    this.channels.get(streamChannel(userId))!([encodeStreamMessage(event(userId, seq))]);
  }
}

describe('a worker does what its connections need', () => {
  let stage: Stage;

  beforeEach(() => {
    mock.timers.enable({ apis: ['setInterval', 'setTimeout', 'Date'] });
    stage = new Stage();
    stage.hub.start();
  });
  afterEach(async () => {
    await stage.hub.stop();
    mock.timers.reset();
  });

  it('listens to the streams of rooms that somebody is in, and a while longer', async () => {
    expect(stage.followed).to.deep.equal([]);
    const [ada, eve] = [stage.connect('ada').client, stage.connect('eve').client];
    await stage.join(ada, 'ada', 'job:1');
    await stage.join(ada, 'ada', 'user:ada');
    await stage.join(eve, 'eve', 'user:eve');
    const both = ['ada', 'eve'].map(streamChannel).sort();
    expect(stage.followed).to.deep.equal(both);

    ada.leave(parseRoom('job:1'));
    pass(120_000);
    expect(stage.followed, 'one of its rooms is left').to.deep.equal(both);

    ada.leave(parseRoom('user:ada'));
    pass(25_000);
    expect(stage.followed, 'clients that come back find it').to.deep.equal(both);
    await stage.join(ada, 'ada', 'user:ada');
    pass(120_000);
    expect(stage.followed, 'somebody came back').to.deep.equal(both);

    ada.close();
    pass(40_000);
    expect(stage.followed).to.deep.equal([streamChannel('eve')]);
    eve.close();
    pass(40_000);
    expect(stage.followed).to.deep.equal([]);
    expect(stage.hub.streamCount).to.equal(0);
  });

  it('follows a stream anew when somebody comes back later', async () => {
    const { client, got } = stage.connect('ada');
    await stage.join(client, 'ada', 'user:ada');
    client.leave(parseRoom('user:ada'));
    pass(40_000);
    expect(stage.followed).to.deep.equal([]);
    expect(await stage.join(client, 'ada', 'user:ada')).to.include({ room: 'user:ada', seq: 0 });
    stage.publish('ada', 1);
    expect(got.map(({ type }) => type)).to.deep.equal(['TASK_UPDATED']);
  });

  it('tells a connection that does not ask its positions, when they have moved', async () => {
    const { client, got } = stage.connect('ada');
    const told = (): unknown[] =>
      got
        .filter(({ type }) => type === 'POSITION')
        .map(({ payload }) => (JSON.parse(payload.toString()) as { data: { positions: unknown } }).data.positions);
    await stage.join(client, 'ada', 'job:2');
    pass(2 * POSITION_INTERVAL_MS);
    expect(told(), 'nothing has happened').to.deep.equal([]);

    stage.publish('ada', 1);
    stage.publish('ada', 2);
    expect(got, 'events of another job').to.deep.equal([]);
    pass(POSITION_INTERVAL_MS + 5_000);
    expect(told()).to.deep.equal([[{ room: 'job:2', seq: 2, epoch: 'e' }]]);
    pass(2 * POSITION_INTERVAL_MS);
    expect(told(), 'it was told').to.have.length(1);

    stage.publish('ada', 3);
    expect(client.positions()).to.deep.equal([{ room: 'job:2', seq: 3, epoch: 'e' }]);
    pass(2 * POSITION_INTERVAL_MS);
    expect(told(), 'it had asked').to.have.length(1);
  });
});
