import { expect } from 'chai';
import { TurnReader } from '../../src/base/turn-reader.js';
import { eventually } from '../support/eventually.js';

describe('turn reader', () => {
  it('asks in one query for what is asked for in one turn, for equal things once', async () => {
    const queries: string[][] = [];
    const reader = new TurnReader(async (keys) => {
      queries.push([...keys]);
      return new Map(keys.filter((key) => key !== 'none').map((key) => [key, key.toUpperCase()]));
    });
    const answers = await Promise.all(['a', 'b', 'a', 'none'].map((key) => reader.read(key)));
    expect(answers).to.deep.equal(['A', 'B', 'A', undefined]);
    expect(await reader.read('a')).to.equal('A');
    expect(queries).to.deep.equal([['a', 'b', 'none'], ['a']]);
  });

  it('asks together for what comes while a query is under way, and never answers with what was read before', async () => {
    const queries: string[][] = [];
    const answers: Array<() => void> = [];
    let state = 0;
    const reader = new TurnReader(async (keys) => {
      const now = state;
      queries.push([...keys]);
      await new Promise<void>((resolve) => answers.push(resolve));
      return new Map(keys.map((key) => [key, now]));
    });
    const first = reader.read('a');
    await eventually(() => expect(queries).to.have.length(1));
    state = 1;
    const later = [reader.read('a'), reader.read('b')];
    await new Promise(setImmediate);
    const last = reader.read('c');
    expect(queries).to.deep.equal([['a']]);
    answers.shift()!();
    expect(await first).to.equal(0);
    await eventually(() => expect(queries).to.deep.equal([['a'], ['a', 'b', 'c']]));
    answers.shift()!();
    expect(await Promise.all([...later, last])).to.deep.equal([1, 1, 1]);
  });

  it('gathers after somebody who arrives, and never for who asks for one thing after the other', async () => {
    const queries: string[][] = [];
    const query = async (keys: readonly string[]): Promise<Map<string, string>> => {
      queries.push([...keys]);
      return new Map(keys.map((key) => [key, key]));
    };
    const patient = new TurnReader(query, 3_600_000);
    await patient.read('a');
    await patient.read('b');
    await patient.read('c', true);
    expect(queries).to.deep.equal([['a'], ['b'], ['c']]);

    const quick = new TurnReader(query, 500);
    await quick.read('d', true);
    const first = quick.read('e', true);
    for (let turns = 0; turns < 5; turns += 1) {
      await new Promise(setImmediate);
    }
    await Promise.all([first, quick.read('f')]);
    expect(queries.slice(3)).to.deep.equal([['d'], ['e', 'f']]);
  });

  it('asks in bounded queries, of which one may fail without the others', async () => {
    const sizes: number[] = [];
    const reader = new TurnReader(async (keys) => {
      sizes.push(keys.length);
      if (keys.includes('700')) {
        throw new Error('no');
      }
      return new Map(keys.map((key) => [key, Number(key)]));
    });
    const keys = Array.from({ length: 1_200 }, (_, index) => String(index));
    const answers = await Promise.allSettled(keys.map((key) => reader.read(key)));
    expect(sizes).to.deep.equal([500, 500, 200]);
    expect(answers.filter(({ status }) => status === 'rejected')).to.have.length(500);
    expect(answers[1_100]).to.deep.equal({ status: 'fulfilled', value: 1_100 });

    const taken: number[] = [];
    await reader.readMany(keys.slice(0, 800), (_key, value) => taken.push(value)).catch(() => {});
    expect(taken).to.have.length(500);
  });
});
