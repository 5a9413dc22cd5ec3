import { expect } from 'chai';
import { silentLogger } from '../../src/base/logger.js';
import { streamChannel } from '../../src/broker/broker.js';
import type { Connection, Outgoing } from '../../src/hub/connection.js';
import { Hub } from '../../src/hub/hub.js';
import { Subscription } from '../../src/hub/subscription.js';
import type { TaskwireError } from '../../src/protocol/errors.js';
import type { SubscribeResult } from '../../src/protocol/messages.js';
import { parseRoom } from '../../src/protocol/rooms.js';
import { encodeStreamMessage } from '../../src/protocol/stream-message.js';
import { eventually } from '../support/eventually.js';
import { HUB_OPTIONS } from '../support/hub-options.js';

const MAX_BUFFERED_BYTES = 1_000;

/** A connection that has sent nothing of what it was given until `read` is called. */
class SlowConnection implements Connection {
  readonly id = 'slow';
  readonly identity = { keyId: 'k', owner: 'alice', role: 'user' as const, rateLimit: 1 };
  readonly got: string[] = [];
  closedWith: string | undefined;
  backlog = 0;

  deliver({ type, payload }: Outgoing): void {
    // As the gateways do: what came before tells.
    if (this.backlog > MAX_BUFFERED_BYTES) {
      this.close('SLOW_CONSUMER');
      return;
    }
    this.backlog += payload.length;
    this.got.push(type);
  }

  close(code: string): void {
    this.closedWith ??= code;
  }

  read(): void {
    this.backlog = 0;
  }
}

describe('hub and a connection that takes its time', () => {
  it('sends no second snapshot and goes live on no room before the first snapshot was taken', async () => {
    let head = 0;
    let deliver: (batch: readonly Buffer[]) => void = () => {};
    const hub = new Hub(
      {
        up: true,
        onUp() {},
        onDown() {},
        subscribe: async (channel, listener) => {
          expect(channel).to.equal(streamChannel('alice'));
          deliver = listener;
        },
        unsubscribe: async () => {},
      },
      {
        heads: async () => new Map([['alice', { seq: 0, epoch: 'e' }]]),
        read: () => Promise.reject(new Error('nothing is missing')),
        state: () => Promise.reject(new Error('nothing is asked for')),
        snapshot: async () => ({
          seq: head,
          epoch: 'e',
          userId: 'alice',
          tasks: `["${'x'.repeat(5_000)}"]`,
          truncated: false,
          oldest: undefined,
        }),
      },
      { ...HUB_OPTIONS, RING_EVENTS: 10, MAX_BUFFERED_BYTES },
      silentLogger,
    );
    const connection = new SlowConnection();
    const client = hub.connect(connection);
    const answers: Array<SubscribeResult | TaskwireError> = [];
    for (const name of ['job:1', 'job:2']) {
      client.subscribe({ userId: 'alice' }, new Subscription(parseRoom(name), {}, (answer) => answers.push(answer)));
    }
    await eventually(() => expect(connection.got).to.deep.equal(['JOB_TASKS_SNAPSHOT']));
    head = 1;
    deliver([
      encodeStreamMessage({
        type: 'TASK_UPDATED',
        userId: 'alice',
        seq: 1,
        epoch: 'e',
        jobId: '1',
        taskId: 1,
        changes: '{}',
        timestamp: '2024-01-01T00:00:00.000Z',
      }),
    ]);
    expect(connection.got).to.deep.equal(['JOB_TASKS_SNAPSHOT']);

    connection.read();
    await eventually(() => expect(connection.got).to.deep.equal(['JOB_TASKS_SNAPSHOT', 'JOB_TASKS_SNAPSHOT']));
    expect(answers).to.deep.equal([]);

    connection.read();
    await eventually(() => expect(answers).to.have.length(2));
    expect(connection.got).to.deep.equal(['JOB_TASKS_SNAPSHOT', 'JOB_TASKS_SNAPSHOT', 'TASK_UPDATED']);
    expect(connection.closedWith).to.equal(undefined);
    await hub.stop();
  });
});
