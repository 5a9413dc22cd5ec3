import { expect } from 'chai';
import fc from 'fast-check';
import { FairQueue, type FairQueueOptions } from '../../src/base/fair-queue.js';

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A queue whose tasks end when the test says so. */
class Stage {
  /** Names of the tasks in the order in which they started. */
  readonly started: string[] = [];
  readonly queue: FairQueue;
  private readonly running = new Map<string, { resolve(value: string): void; reject(error: unknown): void }>();

  constructor(options: FairQueueOptions) {
    this.queue = new FairQueue(options);
  }

  get runs(): number {
    return this.running.size;
  }

  run(key: string, name: string): Promise<string> {
    return this.queue.run(key, () => this.task(name));
  }

  share(key: string, name: string): Promise<string> {
    return this.queue.share(name, key, () => this.task(name));
  }

  async end(name = [...this.running.keys()][0]!, error?: Error): Promise<void> {
    const { resolve, reject } = this.running.get(name)!;
    this.running.delete(name);
    if (error === undefined) {
      resolve(name);
    } else {
      reject(error);
    }
    await turn();
  }

  async endAll(): Promise<void> {
    while (this.running.size > 0) {
      await this.end();
    }
  }

  private task(name: string): Promise<string> {
    this.started.push(name);
    return new Promise((resolve, reject) => {
      this.running.set(name, { resolve, reject });
    });
  }
}

describe('fair queue', () => {
  it('lets keys take turns, however much one of them has waiting', async () => {
    const stage = new Stage({ concurrency: 1 });
    for (const name of ['a1', 'a2', 'a3', 'a4', 'b1', 'c1', 'b2']) {
      void stage.run(name[0]!, name);
    }
    await stage.endAll();
    expect(stage.started).to.deep.equal(['a1', 'a2', 'b1', 'c1', 'a3', 'b2', 'a4']);
    expect(stage.queue.waiting).to.equal(0);
  });

  it('serves a key after at most one task of each other key, and keeps the order of each', async () => {
    const arrivals = fc.array(fc.oneof(fc.constantFrom('a', 'b', 'c', 'd'), fc.constant('end')), { maxLength: 60 });
    await fc.assert(
      fc.asyncProperty(arrivals, fc.integer({ min: 1, max: 3 }), async (steps, concurrency) => {
        const stage = new Stage({ concurrency });
        const names: string[] = [];
        const waits = new Map<string, { key: string; before: number }>();
        for (const [index, key] of steps.entries()) {
          if (key === 'end') {
            if (stage.runs > 0) {
              await stage.end();
            }
          } else {
            const name = `${key}${String(index).padStart(3, '0')}`;
            // Only the first of a key that waits has the promise.
            const first = names.every((other) => other[0] !== key || stage.started.includes(other));
            names.push(name);
            void stage.run(key, name);
            if (first) {
              waits.set(name, { key, before: stage.started.length });
            }
          }
          expect(stage.runs).to.be.at.most(concurrency);
        }
        await stage.endAll();
        for (const [name, { key, before }] of waits) {
          const between = stage.started.slice(before, Math.max(before, stage.started.indexOf(name)));
          const others = between.map((other) => other[0]!).filter((other) => other !== key);
          expect(new Set(others).size, `before ${name}: ${between}`).to.equal(others.length);
        }
        for (const key of ['a', 'b', 'c', 'd']) {
          const own = stage.started.filter((name) => name.startsWith(key));
          expect(own).to.deep.equal([...own].sort());
        }
      }),
      { numRuns: 300 },
    );
  });

  it('holds a key to its own bound, and others pass it', async () => {
    const stage = new Stage({ concurrency: 3, concurrencyPerKey: 1 });
    for (const name of ['a1', 'a2', 'b1']) {
      void stage.run(name[0]!, name);
    }
    expect(stage.started).to.deep.equal(['a1', 'b1']);
    await stage.end('a1');
    expect(stage.started).to.deep.equal(['a1', 'b1', 'a2']);
    await stage.endAll();
  });

  it('refuses what is too much of one key, and of that key only', async () => {
    const stage = new Stage({ concurrency: 1, waitingPerKey: 2, refusal: (key) => new Error(`${key} is busy`) });
    for (const name of ['a1', 'a2', 'a3']) {
      void stage.run('a', name);
    }
    const refused = await stage.run('a', 'a4').catch((error: Error) => error.message);
    expect(refused).to.equal('a is busy');
    expect(await stage.share('a', 'all').catch((error: Error) => error.message)).to.equal('a is busy');
    const other = stage.run('b', 'b1');
    await stage.endAll();
    expect(await other).to.equal('b1');
    expect(stage.started).to.deep.equal(['a1', 'a2', 'b1', 'a3']);
  });

  it('goes on when a task fails, and tells who asked for it', async () => {
    const stage = new Stage({ concurrency: 1 });
    const failed = stage.run('a', 'a1').catch((error: Error) => error.message);
    const next = stage.run('a', 'a2');
    await stage.end('a1', new Error('gone'));
    expect(await failed).to.equal('gone');
    await stage.endAll();
    expect(await next).to.equal('a2');
  });

  it('goes on when a task throws before it has begun to wait', async () => {
    const queue = new FairQueue({ concurrency: 1 });
    const broken = (): Promise<void> => {
      throw new Error('at once');
    };
    for (const ask of [() => queue.run('a', broken), () => queue.share('same', 'a', broken)]) {
      expect(await ask().catch((error: Error) => error.message)).to.equal('at once');
    }
    expect(await queue.run('a', async () => 'done')).to.equal('done');
  });

  it('does once what is shared, at the first turn of whoever waits for it', async () => {
    const stage = new Stage({ concurrency: 1 });
    void stage.run('x', 'x1');
    for (const name of ['a1', 'a2']) {
      void stage.run('a', name);
    }
    const results = [stage.share('a', 'all'), stage.share('b', 'all'), stage.share('b', 'all')];
    void stage.run('b', 'b1');
    await stage.end('x1');
    await stage.end('a1');
    // The turn of b comes before a has done what waits in front of it.
    expect(stage.started).to.deep.equal(['x1', 'a1', 'all']);
    results.push(stage.share('c', 'all'));
    await stage.endAll();
    expect(await Promise.all(results)).to.deep.equal(['all', 'all', 'all', 'all']);
    expect(stage.started).to.deep.equal(['x1', 'a1', 'all', 'a2', 'b1']);
    const again = stage.share('a', 'all');
    await stage.endAll();
    expect(await again, 'what was done is done anew for whoever asks later').to.equal('all');
    expect(stage.started.at(-1)).to.equal('all');
  });

  it('tells everybody who shares it that a task failed', async () => {
    const stage = new Stage({ concurrency: 1 });
    const both = ['a', 'b'].map((key) => stage.share(key, 'all').catch((error: Error) => error.message));
    await stage.end('all', new Error('gone'));
    expect(await Promise.all(both)).to.deep.equal(['gone', 'gone']);
  });
});
