import { setImmediate as turn } from 'node:timers/promises';
import { expect } from 'chai';
import { Releasers } from '../../src/base/releasers.js';

describe('releasers', () => {
  it('run backwards, one after the other, once', async () => {
    const said: string[] = [];
    const releasers = new Releasers(() => {});
    releasers.push('first', () => said.push('first'));
    releasers.push('second', async () => {
      await turn();
      said.push('second');
    });
    await Promise.all([releasers.release(), releasers.release()]);
    await releasers.release();
    expect(said).to.deep.equal(['second', 'first']);
  });

  it('go on when one fails, and say which', async () => {
    const said: unknown[] = [];
    const releasers = new Releasers((what, error) => said.push(what, (error as Error).message));
    releasers.push('first', () => said.push('released'));
    releasers.push('second', () => Promise.reject(new Error('no')));
    await releasers.release();
    expect(said).to.deep.equal(['second', 'no', 'released']);
  });

  it('release what is opened too late at once', async () => {
    const said: string[] = [];
    const releasers = new Releasers(() => {});
    await releasers.release();
    releasers.push('late', () => said.push('late'));
    expect(said).to.deep.equal(['late']);
  });

  it('wait no longer than their deadline for all of them together', async () => {
    const said: string[] = [];
    const releasers = new Releasers(() => {}, 20);
    releasers.push('first', () => said.push('first'));
    releasers.push('second', () => new Promise(() => {}));
    await releasers.release();
    expect(said).to.deep.equal(['first']);
  });
});
