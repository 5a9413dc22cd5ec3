import { cell, type Runs } from '../lib/runs.js';
import type { Summary } from '../lib/stats.js';
import { short } from '../lib/table.js';

/** What is shown, in this order, by variant and wire. */
const NAMES: ReadonlyMap<string, string> = new Map([
  ['ours socketio', 'taskwire, Socket.IO'],
  ['ours plain', 'taskwire, plain WebSocket'],
  ['plain socketio', 'plain Socket.IO'],
  ['plain-ws plain', 'ws'],
  ['uwebsockets plain', 'uWebSockets.js'],
]);

export const nameOf = (subject: string): string => NAMES.get(subject) ?? subject;

/** Medians and ranges of runs, as text for tables. */
export class Figures {
  private readonly summaries: ReadonlyMap<string, ReturnType<Runs['summaries']>>;

  constructor(runs: Runs) {
    this.summaries = new Map(runs.scenarios.map((scenario) => [scenario, runs.summaries(scenario)]));
  }

  /** Scenarios whose names begin so, in the order in which they ran. */
  scenarios(start: string): string[] {
    return [...this.summaries.keys()].filter((scenario) => scenario.startsWith(start));
  }

  median(scenario: string, subject: string, figure: string): number {
    return this.summary(scenario, subject, figure)?.median ?? Number.NaN;
  }

  /** Names of the figures of a subject. */
  figures(scenario: string, subject: string): string[] {
    return [...(this.summaries.get(scenario)?.get(subject)?.keys() ?? [])];
  }

  /** Median, with smallest and largest of several runs. */
  cell(scenario: string, subject: string, figure: string): string {
    return cell(this.summary(scenario, subject, figure), shown);
  }

  /** One median divided by another one's. */
  ratio(scenario: string, subject: string, peer: string, figure: string): string {
    return times(this.median(scenario, subject, figure) / this.median(scenario, peer, figure));
  }

  /** A row for each subject that ran a scenario; the first one begins with the title. */
  rows(scenario: string, title: string, figures: readonly string[]): string[][] {
    const summaries = this.summaries.get(scenario);
    return [...NAMES]
      .filter(([subject]) => summaries?.has(subject))
      .map(([subject, text], place) => [
        place === 0 ? title : '',
        text,
        ...figures.map((figure) => this.cell(scenario, subject, figure)),
      ]);
  }

  private summary(scenario: string, subject: string, figure: string): Summary | undefined {
    return this.summaries.get(scenario)?.get(subject)?.get(figure);
  }
}

export const shown = (value: number): string =>
  value >= 1_000 ? Math.round(value).toLocaleString('en') : short(value);

export const times = (value: number): string => (Number.isNaN(value) ? '-' : `${value.toFixed(2)}x`);

/**
 * Text of a Markdown table.
 * @param words columns at the left that hold words; the others hold figures
 */
export function table(words: number, header: readonly string[], rows: ReadonlyArray<readonly string[]>): string {
  const rule = header.map((_, column) => (column < words ? '---' : '---:'));
  return [header, rule, ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}
