import { expect } from 'chai';
import { StreamQueue } from '../../src/http/stream-queue.js';
import { TaskwireError } from '../../src/protocol/errors.js';
import { refusal, refusalCode } from '../support/refusal.js';

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

const lockTimeout = (): TaskwireError => new TaskwireError('STREAM_BUSY', { retryAfterMs: 1_000 });

/** A database in which somebody keeps the rows of some users: statements of theirs wait until the test ends their patience. */
class Locks {
  readonly held = new Set<string>();
  /** Statements that wait for a lock, by user. */
  readonly waiting: Array<{ readonly owner: string; readonly give: () => void }> = [];
  now = 0;
  readonly queue = new StreamQueue({ concurrency: 5, now: () => this.now });

  write(owner: string): Promise<string> {
    return this.queue.run(owner, () =>
      this.held.has(owner)
        ? new Promise((_resolve, reject) => {
            this.waiting.push({ owner, give: () => reject(lockTimeout()) });
          })
        : Promise.resolve(owner),
    );
  }

  /** All statements that wait give up. */
  async timeOut(): Promise<void> {
    for (const { give } of this.waiting.splice(0)) {
      give();
    }
    await turn();
  }
}

describe('writes of streams', () => {
  it('of which many are locked keep one connection together, and the others go on', async () => {
    const locks = new Locks();
    const owners = Array.from({ length: 30 }, (_, n) => `user_${n}`);
    for (const owner of owners) {
      locks.held.add(owner);
      for (let n = 0; n < 3; n += 1) {
        locks.write(owner).catch(() => {});
      }
    }
    const found = new Set<string>();
    for (let rounds = 0; found.size < owners.length; rounds += 1) {
      expect(locks.waiting.length).to.be.within(1, 5);
      expect(rounds, 'attempts until all are known').to.be.below(owners.length);
      for (const { owner } of locks.waiting) {
        found.add(owner);
      }
      await locks.timeOut();
    }
    await locks.timeOut();
    expect(locks.waiting, 'all of them are known').to.have.length(1);
    for (let n = 0; n < 20; n += 1) {
      expect(await locks.write('somebody else')).to.equal('somebody else');
    }
    expect(locks.waiting).to.have.length(1);
  });

  it('are made when the lock is given back, and wait apart no longer', async () => {
    const locks = new Locks();
    locks.held.add('ada');
    const first = [locks.write('ada'), locks.write('ada')];
    await turn();
    await locks.timeOut();
    expect(locks.waiting.map(({ owner }) => owner)).to.deep.equal(['ada']);
    locks.held.delete('ada');
    locks.now += 9_000;
    await locks.timeOut();
    expect(await Promise.all(first)).to.deep.equal(['ada', 'ada']);
    // Somebody else's lock does not concern it any more.
    locks.held.add('bob');
    locks.write('bob').catch(() => {});
    await turn();
    await locks.timeOut();
    expect(locks.waiting.map(({ owner }) => owner)).to.deep.equal(['bob']);
    expect(await locks.write('ada')).to.equal('ada');
  });

  it('are refused when the lock is kept for ten seconds', async () => {
    const locks = new Locks();
    locks.held.add('ada');
    const outcomes = [locks.write('ada'), locks.write('ada'), locks.write('ada')].map((write) => refusal(() => write));
    await turn();
    await locks.timeOut();
    locks.now += 10_000;
    await locks.timeOut();
    for (const { code, options } of await Promise.all(outcomes)) {
      expect([code, options.retryAfterMs]).to.deep.equal(['STREAM_BUSY', 1_000]);
    }
    expect(locks.waiting).to.deep.equal([]);
  });

  it('are refused at once when two hundred of the stream wait', async () => {
    const locks = new Locks();
    locks.held.add('ada');
    const writes = Array.from({ length: 203 }, () => refusalCode(() => locks.write('ada')));
    expect(await Promise.race(writes)).to.equal('STREAM_BUSY');
    expect(await locks.write('bob')).to.equal('bob');
  });

  it('fail with what they throw', async () => {
    const { queue } = new Locks();
    expect(await refusalCode(() => queue.run('ada', () => Promise.reject(new TaskwireError('NOT_FOUND'))))).to.equal(
      'NOT_FOUND',
    );
  });
});
