import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'chai';
import { mutated, ROOT } from '../fault/mutant-copy.js';
import { MUTANTS, SUITES } from '../fault/mutants.js';

const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8');

describe('mutants', () => {
  it('find each text that they replace exactly once', () => {
    for (const mutant of MUTANTS) {
      expect(mutated(mutant), mutant.name).not.to.equal(read(mutant.file));
    }
  });

  it('have names of their own', () => {
    const names = MUTANTS.map(({ name }) => name);
    expect(names).to.deep.equal([...new Set(names)]);
  });

  it('name tests that exist', () => {
    for (const { name, killedBy } of MUTANTS) {
      const { file, title } = killedBy;
      expect(read(file).split(title).length - 1, `${name}: "${title}" in ${file}`).to.equal(1);
    }
    for (const [suite, { file, title }] of Object.entries(SUITES)) {
      expect(read(file), suite).to.contain(title);
    }
  });
});
