import type { Worker } from 'node:cluster';
import { EventEmitter } from 'node:events';
import { expect } from 'chai';
import { silentLogger } from '../../src/base/logger.js';
import type { ToWorker } from '../../src/base/process-messages.js';
import { WorkerPool } from '../../src/cluster/worker-pool.js';
import { eventually } from '../support/eventually.js';

/** A worker without a process. It ends when it is killed, and otherwise when the test says so. */
class FakeWorker extends EventEmitter {
  readonly heard: ToWorker[] = [];
  readonly nodeId: string;
  readonly process: { readonly pid: number; readonly kill: (signal: string) => void };
  private connected = true;

  constructor(pid: number) {
    super();
    this.nodeId = `node-${pid}`;
    this.process = { pid, kill: (signal) => this.end(null, signal) };
  }

  isConnected(): boolean {
    return this.connected;
  }

  send(message: ToWorker): void {
    this.heard.push(message);
  }

  ready(): void {
    this.emit('message', { type: 'taskwire:ready', nodeId: this.nodeId });
  }

  end(code: number | null, signal: string | null = null): void {
    if (this.connected) {
      this.connected = false;
      this.emit('exit', code, signal);
    }
  }

  /** Ids of those that it was told are dead. */
  get buried(): string[] {
    return this.heard.flatMap((message) => (message.type === 'taskwire:died' ? [message.nodeId] : []));
  }

  get drains(): boolean {
    return this.heard.some(({ type }) => type === 'taskwire:drain');
  }
}

describe('the pool of workers', () => {
  let workers: FakeWorker[];
  let pool: WorkerPool;
  /** Lines of the log that say what went wrong. */
  let errors: string[];

  beforeEach(() => {
    errors = [];
  });
  afterEach(() => pool.kill());

  /** Starts a pool; all of its workers are ready. */
  async function start(size: number, drainMs: number): Promise<void> {
    workers = [];
    pool = new WorkerPool({
      size,
      fork: () => {
        const worker = new FakeWorker(workers.length);
        workers.push(worker);
        return worker as unknown as Worker;
      },
      handOverTo: undefined,
      watch: false,
      logger: { ...silentLogger, error: (message) => errors.push(message) },
      drainMs,
      onServing: () => {},
      onGiveUp: () => {},
    });
    const started = pool.start();
    for (const worker of workers) {
      worker.ready();
    }
    await started;
  }

  /** Begins to replace the workers: the first one drains, as its successor serves. */
  async function rollOne(): Promise<{ old: FakeWorker; successor: FakeWorker }> {
    void pool.roll();
    const [old, , successor] = workers as [FakeWorker, FakeWorker, FakeWorker];
    successor.ready();
    await eventually(() => expect(old.drains).to.equal(true));
    return { old, successor };
  }

  it('tells the others of a worker that was killed because it drained for too long', async () => {
    await start(2, 1);
    const { old, successor } = await rollOne();
    await eventually(() => expect(old.isConnected()).to.equal(false));
    expect([workers[1], successor].map((worker) => worker!.buried)).to.deep.equal([[old.nodeId], [old.nodeId]]);
  });

  it('tells nobody of a worker that has drained, which gave back itself what it held', async () => {
    await start(2, 60_000);
    const { old, successor } = await rollOne();
    old.end(0);
    // The next one is replaced.
    await eventually(() => expect(workers).to.have.length(4));
    expect([workers[1], successor].map((worker) => worker!.buried)).to.deep.equal([[], []]);
  });

  it('tells those that drain too of a worker that died while all of them did', async () => {
    await start(2, 60_000);
    const drained = pool.drain();
    const [one, other] = workers as [FakeWorker, FakeWorker];
    one.end(null, 'SIGSEGV');
    expect(other.buried).to.deep.equal([one.nodeId]);
    other.end(0);
    await drained;
  });

  it('tells new workers of all that died at the same time: those that were told first may have been among them', async () => {
    await start(3, 60_000);
    const all = [...workers];
    for (const worker of all) {
      worker.end(null, 'SIGKILL');
    }
    await eventually(() => expect(workers).to.have.length(6), { timeoutMs: 10_000 });
    for (const worker of workers.slice(3)) {
      worker.ready();
      await eventually(() => expect(worker.buried).to.deep.equal(all.map(({ nodeId }) => nodeId)));
    }
  });

  it('tells of a worker that died when nobody could be told as soon as one serves', async () => {
    await start(1, 60_000);
    const [only] = workers as [FakeWorker];
    only.end(1);
    await eventually(() => expect(workers).to.have.length(2));
    expect(workers[1]!.buried).to.deep.equal([]);
    workers[1]!.ready();
    await eventually(() => expect(workers[1]!.buried).to.deep.equal([only.nodeId]));
  });

  it('may be ended while a worker is replaced: nothing has gone wrong', async () => {
    await start(2, 10_000);
    const rolled = pool.roll();
    await eventually(() => expect(workers).to.have.length(3));
    const drained = pool.drain();
    await eventually(() => expect(workers.every(({ drains }) => drains)).to.equal(true));
    for (const worker of workers) {
      worker.end(0);
    }
    await Promise.all([rolled, drained]);
    expect(errors).to.deep.equal([]);
  });
});
