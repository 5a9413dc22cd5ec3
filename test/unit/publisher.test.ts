import { expect } from 'chai';
import { Publisher } from '../../src/broker/publisher.js';
import type { TaskEvent } from '../../src/protocol/events.js';

const EVENT: TaskEvent = {
  type: 'TASK_CREATED',
  userId: 'ada',
  jobId: '1',
  taskId: 1,
  seq: 1,
  epoch: 'e',
  changes: '{}',
  timestamp: '2024-01-01T00:00:00.000Z',
};

describe('a publisher whose broker is away', () => {
  const { now } = performance;
  let time: number;
  let broken: boolean;
  let told: number[];
  let publisher: Publisher;

  beforeEach(() => {
    time = 1_000_000;
    performance.now = () => time;
    broken = true;
    told = [];
    const transport = { publish: () => (broken ? Promise.reject(new Error('away')) : Promise.resolve()) };
    publisher = new Publisher(transport, { warn: () => void told.push(time) });
  });

  afterEach(() => {
    performance.now = now;
  });

  /** Publishes an event each second. */
  async function publish(seconds: number): Promise<void> {
    for (const end = time + seconds * 1_000; time < end; time += 1_000) {
      publisher.publish([EVENT]);
      await new Promise(setImmediate);
    }
  }

  it('tells of an hour of it with a few lines, and counts all', async () => {
    await publish(3_600);
    expect(told.length).to.be.within(2, 15);
    expect(publisher.failed).to.equal(3_600);
    expect(publisher.published).to.equal(0);
  });

  it('tells of it at once when it is away again', async () => {
    await publish(3_600);
    const before = told.length;
    broken = false;
    await publish(5);
    broken = true;
    await publish(1);
    expect(told).to.have.length(before + 1);
  });
});
