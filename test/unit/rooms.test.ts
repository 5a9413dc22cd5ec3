import { expect } from 'chai';
import fc from 'fast-check';
import { parseSubscription } from '../../src/hub/requests.js';
import { TaskwireError } from '../../src/protocol/errors.js';
import { jobRoom, parseRoom, taskRoom, userRoom } from '../../src/protocol/rooms.js';

function codeOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    return error instanceof TaskwireError ? error.code : `no TaskwireError: ${error}`;
  }
  return 'no refusal';
}

describe('room names', () => {
  it('are read to their ends', () => {
    const digits = '9'.repeat(78);
    for (const [name, kind, id] of [
      ['job:0', 'job', '0'],
      ['job:123', 'job', '123'],
      [`job:${digits}`, 'job', digits],
      ['task:1', 'task', '1'],
      [`task:${Number.MAX_SAFE_INTEGER}`, 'task', String(Number.MAX_SAFE_INTEGER)],
      ['user:u', 'user', 'u'],
      ['user:job:1', 'user', 'job:1'],
      ['user:a:b', 'user', 'a:b'],
      ['user::', 'user', ':'],
      ["user:o'brien", 'user', "o'brien"],
      [`user:${'x'.repeat(128)}`, 'user', 'x'.repeat(128)],
    ]) {
      expect(parseRoom(name)).to.deep.equal({ kind, id, name });
    }
  });

  it('that are short or odd are refused', () => {
    const odd: unknown[] = [
      ...['', ':', '::', 'j', 'jo', 'job', 'job:', 'tas', 'task', 'task:', 'use', 'user', 'user:', ':1', '1', 'job1'],
      // Without a colon, though the letters before the last one name a kind.
      ...['user1', 'userx', 'user-', 'task1', 'jobs'],
      ...['job:-1', 'job:+1', 'job:01', 'job:1.0', 'job:1e3', 'job:0x1', 'job: 1', 'job:1 ', 'job:1\n', 'job:one'],
      ...[
        'job:١',
        'job:１',
        'jоb:1',
        'JOB:1',
        'Job:1',
        ' job:1',
        'jobs:1',
        'job::1',
        'job:1:2',
        `job:${'9'.repeat(79)}`,
      ],
      ...['task:0', 'task:-1', 'task:01', 'task:9007199254740992', 'task:10000000000000000'],
      ...['user: ', 'user:a b', 'user:a\tb', 'user:ä', 'user:"', 'user:\\', 'user:<', 'user:>', 'user:\u0000'],
      ...[`user:${'x'.repeat(129)}`, 'x'.repeat(1_000_000), '__proto__:1', 'constructor:1', 'room:1'],
      ...[undefined, null, 0, 1, true, {}, [], ['job:1'], { toString: () => 'job:1' }, new String('job:1')],
    ];
    for (const name of odd) {
      expect(
        codeOf(() => parseRoom(name)),
        `${typeof name} ${String(name).slice(0, 40)}`,
      ).to.equal('INVALID_ROOM');
    }
  });

  it('are either refused or canonical, whatever they are', () => {
    const word = fc.constantFrom('job', 'task', 'user', ':', '0', '1', '9', 'x', ' ', '-', 'ä', '\n');
    const text = fc.oneof(
      fc.string(),
      fc.array(word, { maxLength: 6 }).map((words) => words.join('')),
    );
    fc.assert(
      fc.property(text, (name) => {
        const code = codeOf(() => parseRoom(name));
        if (code === 'no refusal') {
          const { kind, id } = parseRoom(name);
          expect(name).to.equal({ job: jobRoom, task: taskRoom, user: userRoom }[kind](id));
        } else {
          expect(code).to.equal('INVALID_ROOM');
        }
      }),
      { numRuns: 5_000 },
    );
  });
});

describe('a SUBSCRIBE', () => {
  const parse = (data: unknown) => parseSubscription(data, 2);

  it("may have the room's id beside the room, as a string or a number", () => {
    for (const data of [
      { room: 'job:123', job_id: '123' },
      { room: 'job:123', job_id: 123 },
      { room: 'task:7', task_id: 7 },
      { room: 'task:7', task_id: '7' },
      { room: 'user:me', user_id: 'me' },
      // What is not about the room's kind says nothing about the room.
      { room: 'job:123', user_id: 'me', task_id: 9 },
    ]) {
      const { requests, single } = parse(data);
      expect(single).to.equal(true);
      expect(requests.map(({ room }) => room)).to.deep.equal([data.room]);
    }
  });

  it('that says one thing in two ways is refused', () => {
    for (const data of [
      { room: 'user:victim', user_id: 'me' },
      { room: 'job:1', job_id: '2' },
      { room: 'job:1', job_id: '01' },
      { room: 'job:1', job_id: '' },
      { room: 'job:1', job_id: null },
      { room: 'job:1', job_id: ['2'] },
      { room: 'task:1', task_id: 2 },
    ]) {
      expect(
        codeOf(() => parse(data)),
        JSON.stringify(data),
      ).to.equal('INVALID_SUBSCRIPTION_DATA');
      expect(
        codeOf(() => parse({ rooms: ['job:9', data] })),
        JSON.stringify(data),
      ).to.equal('INVALID_SUBSCRIPTION_DATA');
    }
  });

  it('asks for one room or a list of them', () => {
    expect(parse({ rooms: ['job:1', { room: 'task:2', since: 3 }] })).to.deep.include({ single: false });
    for (const data of [undefined, null, 'job:1', [], ['job:1'], {}, { rooms: [] }, { rooms: 'job:1' }, { room: 1 }]) {
      expect(
        codeOf(() => parse(data)),
        JSON.stringify(data),
      ).to.equal('INVALID_SUBSCRIPTION_DATA');
    }
    expect(codeOf(() => parse({ rooms: ['job:1', 'job:2', 'job:3'] }))).to.equal('TOO_MANY_ROOMS');
  });
});
