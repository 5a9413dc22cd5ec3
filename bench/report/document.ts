import type { Runs } from '../lib/runs.js';
import { BLOCKS } from './blocks.js';
import { Figures } from './figures.js';

const PLACE = /^<!-- figures: (.+) -->\n[\s\S]*?^<!-- end of figures -->$/gm;

/**
 * Puts the figures of runs into the places of a document that are named for them: between `<!-- figures: name -->` and
 * `<!-- end of figures -->`.
 * @throws Error when a place has a name that nothing belongs to
 */
export function filled(document: string, runs: Runs): string {
  const figures = new Figures(runs);
  return document.replace(PLACE, (_, name: string) => {
    const block = BLOCKS.get(name);
    if (block === undefined) {
      throw new Error(`No figures "${name}"; there are ${[...BLOCKS.keys()].join(', ')}`);
    }
    return `<!-- figures: ${name} -->\n\n${block(figures)}\n\n<!-- end of figures -->`;
  });
}
