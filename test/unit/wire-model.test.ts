import { expect } from 'chai';
import fc from 'fast-check';
import { ROOMS } from '../support/hub-log.js';
import { LETTERS, type Step, World } from '../support/hub-world.js';

const RUNS = 3_000;

const natural = fc.nat({ max: 7 });
/** Most messages of the broker come in their order. */
const mostlyFirst = fc.oneof({ weight: 4, arbitrary: fc.constant(0) }, natural);
const letter = fc.nat({ max: LETTERS - 1 });
const rooms = fc.array(fc.nat({ max: ROOMS.length - 1 }), { minLength: 1, maxLength: 3 });
const only = <Word extends string>(...words: Word[]) => fc.constantFrom(...words);

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 12, arbitrary: fc.record({ do: only('write'), task: fc.integer({ min: 1, max: 3 }) }) },
  { weight: 3, arbitrary: fc.record({ do: only('capture'), task: fc.integer({ min: 1, max: 3 }) }) },
  { weight: 2, arbitrary: fc.record({ do: only('look') }) },
  { weight: 12, arbitrary: fc.record({ do: only('publish'), pick: mostlyFirst }) },
  { weight: 1, arbitrary: fc.record({ do: only('drop'), pick: natural }) },
  { weight: 10, arbitrary: fc.record({ do: only('answer'), pick: natural }) },
  { weight: 1, arbitrary: fc.record({ do: only('fail'), pick: natural }) },
  { weight: 8, arbitrary: fc.record({ do: only('ask'), letter, rooms, fromSnapshot: fc.boolean() }) },
  { weight: 4, arbitrary: fc.record({ do: only('quit'), letter, rooms, keep: fc.boolean() }) },
  { weight: 14, arbitrary: fc.record({ do: only('up', 'down'), letter, messages: fc.integer({ min: 1, max: 6 }) }) },
  { weight: 5, arbitrary: fc.record({ do: only('ping'), letter }) },
  { weight: 2, arbitrary: fc.record({ do: only('cut'), letter }) },
  { weight: 2, arbitrary: fc.record({ do: only('goOn'), letter }) },
  { weight: 4, arbitrary: fc.record({ do: only('reconcile', 'turn') }) },
  { weight: 1, arbitrary: fc.record({ do: only('trim'), keep: fc.nat({ max: 12 }) }) },
  { weight: 1, arbitrary: fc.record({ do: only('restore'), keep: fc.nat({ max: 4 }) }) },
);

async function play(steps: readonly Step[], eager = false): Promise<void> {
  const world = new World({ eager });
  try {
    for (const action of steps) {
      await world.run(action);
    }
    await world.settle();
    world.check();
  } finally {
    await world.stop();
  }
}

/** Everything that is on the way arrives. */
const ARRIVES: readonly Step[] = [
  { do: 'up', letter: 0, messages: 9 },
  { do: 'turn' },
  ...Array.from({ length: 8 }, (): Step => ({ do: 'answer', pick: 0 })),
  { do: 'down', letter: 0, messages: 99 },
];
const [TASK_1, USER] = [ROOMS.indexOf('task:1'), ROOMS.indexOf('user:u')];

/** An event of a room that the client is in comes while another of its rooms is behind; then the line breaks. */
const OVERTAKEN: readonly Step[] = [
  { do: 'ask', letter: 0, rooms: [TASK_1, USER], fromSnapshot: true },
  ...ARRIVES,
  { do: 'quit', letter: 0, rooms: [USER], keep: true },
  ...ARRIVES,
  { do: 'write', task: 3 },
  { do: 'publish', pick: 0 },
  { do: 'ask', letter: 0, rooms: [USER], fromSnapshot: false },
  { do: 'write', task: 1 },
  { do: 'publish', pick: 0 },
  { do: 'down', letter: 0, messages: 1 },
  { do: 'cut', letter: 0 },
];

describe('a client that follows the documents to the letter', () => {
  it('has every row of its rooms as the database has it, whatever is late, cut off and asked for again', async function () {
    this.timeout(120_000);
    await fc.assert(
      fc.asyncProperty(
        rooms,
        fc.array(step, { minLength: 5, maxLength: 100, size: 'max' }),
        // It begins in some rooms: what goes wrong goes wrong between those and others.
        (live, steps) => play([{ do: 'ask', letter: 0, rooms: live, fromSnapshot: true }, ...ARRIVES, ...steps]),
      ),
      { numRuns: RUNS },
    );
  });

  it('loses nothing when an event overtakes a SUBSCRIBE, and would if it moved a position before the answer', async () => {
    await play(OVERTAKEN);
    const lost = await play(OVERTAKEN, true).catch((error: Error) => error);
    expect(lost).to.have.property('message').that.includes('rows of user:u');
  });

  it('is told where it stands in its other rooms while one of them catches up, and no further than it was sent', async () => {
    const world = new World();
    for (const action of [
      { do: 'ask', letter: 0, rooms: [TASK_1], fromSnapshot: true },
      ...ARRIVES,
      { do: 'write', task: 1 },
      { do: 'publish', pick: 0 },
      { do: 'ask', letter: 0, rooms: [USER], fromSnapshot: true },
      { do: 'up', letter: 0, messages: 1 },
      // The owner of the room is known, its snapshot is under way.
      { do: 'turn' },
      { do: 'answer', pick: 0 },
      { do: 'write', task: 1 },
      { do: 'publish', pick: 0 },
      { do: 'ping', letter: 0 },
      { do: 'up', letter: 0, messages: 1 },
      { do: 'down', letter: 0, messages: 9 },
    ] as Step[]) {
      await world.run(action);
    }
    expect(world.gate.size, 'a snapshot is under way').to.equal(1);
    expect(world.letters[0]!.told).to.deep.equal([{ room: 'task:1', seq: 1, epoch: 'epoch1' }]);
    await world.run({ do: 'cut', letter: 0 });
    await world.settle();
    world.check();
    await world.stop();
  });
});
