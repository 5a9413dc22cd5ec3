import { setImmediate as turn } from 'node:timers/promises';
import { expect } from 'chai';
import { BatchQueue, type BatchQueueOptions } from '../../src/base/batch-queue.js';
import { eventually } from '../support/eventually.js';

describe('batch queue', () => {
  let batches: string[];

  function queueOf(options: BatchQueueOptions<string> & { take?: () => Promise<void> } = {}): BatchQueue<string> {
    batches = [];
    const take = async (items: readonly string[]): Promise<void> => {
      batches.push(items.join(''));
      await options.take?.();
    };
    return new BatchQueue(take, options);
  }

  const add = (queue: BatchQueue<string>, items: string): void => {
    for (const item of items) {
      queue.add(item);
    }
  };

  it('hands on together what comes in one turn, and what comes while that is under way', async () => {
    let end = (): void => {};
    const queue = queueOf({ take: () => new Promise((resolve) => (end = resolve)) });
    add(queue, 'ab');
    expect(batches).to.deep.equal([]);
    await eventually(() => expect(batches).to.deep.equal(['ab']));
    add(queue, 'c');
    await turn();
    add(queue, 'd');
    await turn();
    expect(batches).to.deep.equal(['ab']);
    end();
    await eventually(() => expect(batches).to.deep.equal(['ab', 'cd']));
  });

  it('hands on no more than so many at a time, in their order', async () => {
    const queue = queueOf({ max: 2 });
    add(queue, 'abcde');
    await eventually(() => expect(batches).to.deep.equal(['ab', 'cd', 'e']));
  });

  it('pauses after a batch of several, and never for somebody who asks for one thing after the other', async () => {
    const alone = queueOf({ gatherMs: 3_600_000 });
    for (const [count, item] of ['a', 'b', 'c'].entries()) {
      alone.add(item);
      await eventually(() => expect(batches).to.have.length(count + 1));
    }
    expect(batches).to.deep.equal(['a', 'b', 'c']);

    const many = queueOf({ gatherMs: 500 });
    add(many, 'ab');
    await eventually(() => expect(batches).to.deep.equal(['ab']));
    add(many, 'c');
    for (let turns = 0; turns < 20; turns += 1) {
      await turn();
    }
    add(many, 'd');
    await eventually(() => expect(batches).to.deep.equal(['ab', 'cd']));
  });

  it('pauses after a batch of one too, when that is a sign of many', async () => {
    const queue = queueOf({ gatherMs: 500, isSignOfMany: (items) => items.includes('!') });
    for (const item of ['a', 'b', '!']) {
      const before = batches.length;
      add(queue, item);
      await eventually(() => expect(batches).to.have.length(before + 1));
    }
    add(queue, 'c');
    for (let turns = 0; turns < 20; turns += 1) {
      await turn();
    }
    add(queue, 'd');
    await eventually(() => expect(batches).to.deep.equal(['a', 'b', '!', 'cd']));
  });

  it('ends a pause when somebody comes who may not wait, whatever else comes in that turn', async () => {
    const queue = queueOf({ gatherMs: 3_600_000, mayWait: (items) => !items.includes('!') });
    add(queue, 'ab');
    await eventually(() => expect(batches).to.deep.equal(['ab']));
    for (const items of ['c', 'd', '!e']) {
      add(queue, items);
      await turn();
    }
    await eventually(() => expect(batches).to.deep.equal(['ab', 'cd!e']));
    add(queue, 'f!');
    await eventually(() => expect(batches).to.deep.equal(['ab', 'cd!e', 'f!']));
  });

  it('begins no batch while one is under way, whatever was to be decided then', async () => {
    let running = 0;
    let most = 0;
    const queue = queueOf({
      gatherMs: 1,
      take: async () => {
        running += 1;
        most = Math.max(most, running);
        await turn();
        await turn();
        running -= 1;
      },
    });
    for (let n = 0; n < 300; n += 1) {
      add(queue, 'ab');
      await turn();
    }
    await eventually(() => expect(batches.join('')).to.equal('ab'.repeat(300)));
    expect(most).to.equal(1);
  });
});
