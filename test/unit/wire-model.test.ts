import { expect } from 'chai';
import fc from 'fast-check';
import { ROOMS } from '../support/hub-log.js';
import { LETTERS, play, type Step, World } from '../support/hub-world.js';
import type { Beginning } from '../support/letter-client.js';

const RUNS = 3_000;

const beginning = fc.constantFrom<Beginning>('left', 'snapshot', 1, 1);
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
  { weight: 8, arbitrary: fc.record({ do: only('ask'), letter, rooms, from: beginning }) },
  { weight: 4, arbitrary: fc.record({ do: only('quit'), letter, rooms, keep: fc.boolean() }) },
  { weight: 14, arbitrary: fc.record({ do: only('up', 'down'), letter, messages: fc.integer({ min: 1, max: 6 }) }) },
  { weight: 5, arbitrary: fc.record({ do: only('ping'), letter }) },
  { weight: 3, arbitrary: fc.record({ do: only('letterClog'), letter, on: fc.boolean() }) },
  { weight: 2, arbitrary: fc.record({ do: only('cut'), letter }) },
  { weight: 2, arbitrary: fc.record({ do: only('goOn'), letter }) },
  { weight: 4, arbitrary: fc.record({ do: only('reconcile', 'turn') }) },
  { weight: 1, arbitrary: fc.record({ do: only('trim'), keep: fc.nat({ max: 12 }) }) },
  { weight: 1, arbitrary: fc.record({ do: only('restore'), keep: fc.nat({ max: 4 }) }) },
);

/** Everything that is on the way arrives. */
const ARRIVES: readonly Step[] = [
  { do: 'up', letter: 0, messages: 9 },
  { do: 'turn' },
  ...Array.from({ length: 8 }, (): Step => ({ do: 'answer', pick: 0 })),
  { do: 'down', letter: 0, messages: 99 },
];
const [JOB_1, TASK_1, USER] = [ROOMS.indexOf('job:1'), ROOMS.indexOf('task:1'), ROOMS.indexOf('user:u')];

/** An event of a room that the client is in comes while another of its rooms is behind; then the line breaks. */
const OVERTAKEN: readonly Step[] = [
  { do: 'ask', letter: 0, rooms: [TASK_1, USER], from: 'snapshot' },
  ...ARRIVES,
  { do: 'quit', letter: 0, rooms: [USER], keep: true },
  ...ARRIVES,
  { do: 'write', task: 3 },
  { do: 'publish', pick: 0 },
  { do: 'ask', letter: 0, rooms: [USER], from: 'left' },
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
        beginning,
        fc.array(step, { minLength: 5, maxLength: 100, size: 'max' }),
        // It begins in some rooms: what goes wrong goes wrong between those and others.
        (live, from, steps) => play([{ do: 'ask', letter: 0, rooms: live, from }, ...ARRIVES, ...steps]),
      ),
      { numRuns: RUNS },
    );
  });

  it('loses nothing when an event overtakes a SUBSCRIBE, and would if it moved a position before the answer', async () => {
    await play(OVERTAKEN);
    const lost = await play(OVERTAKEN, { eager: true }).catch((error: Error) => error);
    expect(lost).to.have.property('message').that.includes('rows of user:u');
  });

  it('is told where it stands in its other rooms while one of them catches up, and no further than it was sent', async () => {
    const world = new World();
    for (const action of [
      { do: 'ask', letter: 0, rooms: [TASK_1], from: 'snapshot' },
      ...ARRIVES,
      { do: 'write', task: 1 },
      { do: 'publish', pick: 0 },
      { do: 'ask', letter: 0, rooms: [USER], from: 'snapshot' },
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

  it('gets a large room in parts, and before each what happened up to it to the tasks that it has', async () => {
    const world = new World();
    const run = async (...actions: Step[]): Promise<void> => {
      for (const action of actions) {
        await world.run(action);
      }
    };
    const answer: Step = { do: 'answer', pick: 0 };
    await run({ do: 'write', task: 1 }, { do: 'write', task: 2 }, { do: 'drop', pick: 0 }, { do: 'drop', pick: 0 });
    await run({ do: 'ask', letter: 0, rooms: [JOB_1], from: 1 }, { do: 'up', letter: 0, messages: 1 }, { do: 'turn' });
    // The owner with the head of the stream, and the snapshot, which has the newest task.
    await run(answer, { do: 'turn' }, { do: 'turn' }, answer, { do: 'turn' });
    expect(world.gate.size, 'the part is being read').to.equal(1);
    await run({ do: 'write', task: 2 }, { do: 'write', task: 1 }, { do: 'write', task: 3 });
    // Reads are answered as of the answer and as of the call, in turn. With one more in between this one is of the first kind.
    void world.gate.run(() => undefined);
    world.gate.release(1);
    await run(answer, { do: 'turn' });
    expect(world.gate.size, 'what happened up to the part is being read').to.equal(1);
    await run({ do: 'write', task: 2 }, answer);
    await world.settle();
    const [letter] = world.letters;
    expect(letter!.got).to.deep.equal([
      'JOB_TASKS_SNAPSHOT 2: 2',
      'TASK_UPDATED 3: 2',
      'SNAPSHOT_PART 5: 1',
      'TASK_UPDATED 6: 2',
    ]);
    world.check();
    await world.stop();
  });

  it('keeps what it had when a room is refused between two parts', async () => {
    const answer: Step = { do: 'answer', pick: 0 };
    await play([
      { do: 'write', task: 1 },
      { do: 'write', task: 2 },
      { do: 'ask', letter: 0, rooms: [JOB_1], from: 'snapshot' },
      ...ARRIVES,
      { do: 'ask', letter: 0, rooms: [JOB_1], from: 1 },
      { do: 'up', letter: 0, messages: 1 },
      { do: 'turn' },
      answer,
      // The first part is sent; what happens then is published, and the second one cannot be read.
      { do: 'write', task: 1 },
      answer,
      { do: 'publish', pick: 0 },
      { do: 'publish', pick: 0 },
      { do: 'publish', pick: 0 },
      { do: 'fail', pick: 0 },
      ...ARRIVES,
    ]);
  });
});
