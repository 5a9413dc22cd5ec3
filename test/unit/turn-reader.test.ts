import { expect } from 'chai';
import { TurnReader } from '../../src/base/turn-reader.js';

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
