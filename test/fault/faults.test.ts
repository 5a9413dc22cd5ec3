import { expect } from 'chai';
import { eventually } from '../support/eventually.js';
import { Instance } from '../support/instance.js';
import { POSTGRES_PROGRAMS } from '../support/postgres.js';
import { describeWith } from '../support/programs.js';
import { REDIS_PROGRAMS } from '../support/redis.js';
import { type FaultKind, runFaults } from './driver.js';
import { runStorm } from './storm.js';

/** Everything reached everybody, once and in order, and no worker ended by itself. */
function expectWhole(report: Awaited<ReturnType<typeof runFaults>>): void {
  const { lost, duplicated, outOfOrder, unrecovered, crashed } = report;
  expect({ lost, duplicated, outOfOrder, unrecovered, crashed }, JSON.stringify(report, undefined, 1)).to.deep.equal({
    lost: 0,
    duplicated: 0,
    outOfOrder: 0,
    unrecovered: 0,
    crashed: 0,
  });
}

describeWith([...POSTGRES_PROGRAMS, ...REDIS_PROGRAMS], 'faults', function () {
  this.timeout(300_000);

  it('lose nothing, double nothing, and leave everything in order', async () => {
    const seed = Number(process.env['FAULT_SEED'] ?? Math.floor(Math.random() * 1e9));
    // The way to the same faults again, whatever becomes of this run.
    process.stdout.write(`      FAULT_SEED=${seed}\n`);
    const report = await runFaults({ seed, instances: 2, workers: 2, subscribers: 40, writes: 4_000, faults: 10 });
    expectWhole(report);
    expect(report.writes).to.be.at.least(4_000);
  });

  it('leave one account of writers of all kinds, on all doors', async () => {
    const report = await runFaults({
      seed: 1,
      instances: 1,
      workers: 2,
      subscribers: 12,
      users: 3,
      jobsPerUser: 2,
      load: 'mixed',
      writes: 600,
      faults: ['kill a worker', 'kill and restart Redis', 'restart Postgres'],
    });
    expectWhole(report);
    expect(report.load['captured']).to.be.greaterThan(200);
    expect(report.load['keyed']).to.be.greaterThan(30);
    expect(report.load['unseen']).to.be.greaterThan(5);
  });

  for (const [redis, kinds] of [
    ['cluster', ['kill a Redis master', 'move a slot of Redis']],
    ['sentinels', ['kill a Redis master']],
  ] as const) {
    it(`of Redis lose nothing and double nothing (${redis}, ${kinds.join(', ')})`, async () => {
      for (const kind of kinds) {
        const size = { instances: 2, workers: 1, subscribers: 10, writes: 400, faults: 1 };
        const report = await runFaults({ seed: 1, ...size, redis, kinds: [kind] });
        expectWhole(report);
        expect(report.failedWrites, JSON.stringify(report)).to.equal(0);
        expect(report.faults).to.deep.equal({ [kind]: 1 });
      }
    });
  }

  it('would show if the log were not read', async () => {
    const kinds: FaultKind[] = ['cut clients'];
    const preload = new URL('../support/no-repair.js', import.meta.url).href;
    const size = { instances: 1, workers: 2, subscribers: 10, writes: 200, faults: 1 };
    const report = await runFaults({ seed: 1, ...size, kinds, preload, patienceMs: 2_000 });
    expect(report.lost).to.be.greaterThan(0);
  });

  it('would show a worker that ended by itself, and not one that was killed', async () => {
    const instance = await Instance.start({ workers: 2 });
    try {
      const [doomed] = instance.workers;
      process.kill(doomed!, 'SIGKILL');
      await eventually(() => expect(instance.crashes.map(({ worker }) => worker)).to.deep.equal([doomed]));
      const told = instance.log.length;
      const killed = instance.killWorker();
      await eventually(() => expect(instance.log.slice(told).some(({ worker }) => worker === killed)).to.equal(true));
      expect(instance.crashes).to.have.length(1);
    } finally {
      await instance.kill();
    }
  });

  it('of an instance bring all of its clients to another one, where each resumes its room', async () => {
    const report = await runStorm({ clients: 300, writes: 1_000 });
    const { problems, unrecovered, replayed } = report;
    expect({ problems, unrecovered }, JSON.stringify(report)).to.deep.equal({ problems: [], unrecovered: 0 });
    expect(replayed).to.be.greaterThan(1_000);
  });
});
