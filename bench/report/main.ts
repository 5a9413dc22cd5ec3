/**
 * Puts the figures of runs into docs/performance.md and draws their pictures:
 *
 *     node dist/bench/report/main.js [folder of runs, as JSON lines: docs/performance]
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileNameOf, scenarioChart } from '../lib/pictures.js';
import { readResults } from '../lib/results.js';
import { filled } from './document.js';

const DOCUMENT = join('docs', 'performance.md');
const PICTURES = ['S1 burst', 'S2 burst', 'S4'];

const folder = process.argv[2] ?? join('docs', 'performance');
const runs = readResults(folder);
writeFileSync(DOCUMENT, filled(readFileSync(DOCUMENT, 'utf8'), runs));
for (const scenario of PICTURES) {
  const picture = scenarioChart(runs, scenario);
  if (picture !== undefined) {
    writeFileSync(join('docs', 'performance', `${fileNameOf(scenario)}.svg`), picture);
  }
}
