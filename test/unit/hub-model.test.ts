import { expect } from 'chai';
import fc from 'fast-check';
import { eventually } from '../support/eventually.js';
import { ROOMS } from '../support/hub-log.js';
import { CLIENTS, FRONTENDS, play, type Step, World } from '../support/hub-world.js';

/** So many that a fault of any one line of the catch-up is met. */
const RUNS = 3_000;

const natural = fc.nat({ max: 7 });
const room = fc.nat({ max: ROOMS.length - 1 });
const client = fc.nat({ max: CLIENTS - 1 });
const frontend = fc.nat({ max: FRONTENDS - 1 });
const only = <Word extends string>(...words: Word[]) => fc.constantFrom(...words);
const ask = fc.record({
  room,
  back: fc.option(fc.integer({ min: -2, max: 12 }), { nil: undefined }),
  epoch: only('own', 'own', 'foreign'),
});

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 12, arbitrary: fc.record({ do: only('write'), task: fc.integer({ min: 1, max: 3 }) }) },
  { weight: 3, arbitrary: fc.record({ do: only('capture'), task: fc.integer({ min: 1, max: 3 }) }) },
  { weight: 2, arbitrary: fc.record({ do: only('look') }) },
  { weight: 10, arbitrary: fc.record({ do: only('publish'), pick: natural }) },
  { weight: 2, arbitrary: fc.record({ do: only('duplicate', 'drop'), pick: natural }) },
  { weight: 10, arbitrary: fc.record({ do: only('answer'), pick: natural }) },
  { weight: 1, arbitrary: fc.record({ do: only('fail'), pick: natural }) },
  {
    weight: 6,
    arbitrary: fc.record({ do: only('subscribe'), client, asks: fc.array(ask, { minLength: 1, maxLength: 3 }) }),
  },
  { weight: 2, arbitrary: fc.record({ do: only('unsubscribe'), client, room }) },
  { weight: 3, arbitrary: fc.record({ do: only('clog'), client, on: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ do: only('disconnect'), client }) },
  {
    weight: 3,
    arbitrary: fc.record({ do: only('open'), frontend, rooms: fc.array(room, { minLength: 1, maxLength: 3 }) }),
  },
  { weight: 1, arbitrary: fc.record({ do: only('leave'), frontend }) },
  { weight: 4, arbitrary: fc.record({ do: only('reconcile', 'turn') }) },
  { weight: 2, arbitrary: fc.record({ do: only('trim'), keep: fc.nat({ max: 12 }) }) },
  { weight: 1, arbitrary: fc.record({ do: only('restore'), keep: fc.nat({ max: 4 }) }) },
);

describe('hub against a reference', () => {
  it('gives every connection each event of its rooms once and in order, whatever the interleaving', async function () {
    this.timeout(120_000);
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 80, size: 'max' }), (steps) => play(steps)),
      { numRuns: RUNS },
    );
  });

  it('repairs the gap of a live connection while replays and snapshots queue', async () => {
    const world = new World();
    world.clients[0]!.subscribe('user:u', undefined, undefined);
    await world.settle();
    // As many snapshots as may be read at a time.
    await world.run({ do: 'subscribe', client: 1, asks: [{ room: 0 }] });
    await world.run({ do: 'subscribe', client: 2, asks: [{ room: 1 }] });
    const queued = world.gate.size;
    expect(queued).to.equal(2);
    for (const action of [
      { do: 'write', task: 1 },
      { do: 'drop', pick: 0 },
      { do: 'write', task: 1 },
      { do: 'publish', pick: 0 },
    ] as const) {
      await world.run(action);
    }
    await eventually(() => expect(world.gate.size).to.equal(queued + 1), { timeoutMs: 5_000 });
    world.gate.release(queued);
    await eventually(() => expect(world.clients[0]!.events).to.deep.equal([1, 2]));
    await world.settle();
    world.check();
    await world.stop();
  });

  it('finds what nobody publishes in the log, waits for what is on its way, and repairs only what is lost', async () => {
    const world = new World();
    const { counters } = world.hub;
    const [client] = world.clients as [(typeof world.clients)[number]];
    client.subscribe('user:u', undefined, undefined);
    await world.run({ do: 'turn' });
    await eventually(() => {
      world.gate.release(0);
      expect(client.waits).to.equal(false);
    });
    const gets = (seqs: readonly number[]): Promise<void> =>
      eventually(() => {
        world.gate.release(0);
        expect(client.events).to.deep.equal(seqs);
      });
    await world.run({ do: 'capture', task: 1 });
    await world.run({ do: 'look' });
    await gets([1]);
    // Both are in the log when it is read; the second is published, late.
    await world.run({ do: 'capture', task: 1 });
    await world.run({ do: 'write', task: 1 });
    await world.run({ do: 'capture', task: 1 });
    await world.run({ do: 'look' });
    await gets([1, 2]);
    expect(counters).to.include({ captured: 2, repairs: 0 });
    await world.run({ do: 'publish', pick: 0 });
    await gets([1, 2, 3, 4]);
    expect(counters).to.include({ captured: 3, repairs: 0, duplicates: 0 });
    await world.run({ do: 'write', task: 1 });
    await world.run({ do: 'drop', pick: 0 });
    await world.run({ do: 'look' });
    await gets([1, 2, 3, 4, 5]);
    expect(counters).to.include({ captured: 3, repairs: 1 });
    await world.stop();
  });

  it('fails when repair from the log is switched off', async () => {
    const world = new World({ repairs: false });
    world.clients[0]!.subscribe('user:u', undefined, undefined);
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
