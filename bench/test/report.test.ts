import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { readResults } from '../lib/results.js';
import { filled } from '../report/document.js';

const DOCS = new URL('../../../docs/', import.meta.url);

describe('bench report', () => {
  it('docs/performance.md shows the runs that are beside it', () => {
    const runs = readResults(fileURLToPath(new URL('performance', DOCS)));
    const text = readFileSync(new URL('performance.md', DOCS), 'utf8');
    expect(text.match(/^<!-- figures: /gm)).to.have.length.above(10);
    expect(filled(text, runs)).to.equal(text);
  });
});
