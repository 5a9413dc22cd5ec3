import type { Runs } from '../lib/runs.js';
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
  constructor(private readonly runs: Runs) {}

  /** Scenarios whose names begin so, in the order in which they ran. */
  scenarios(start: string): string[] {
    return this.runs.scenarios.filter((scenario) => scenario.startsWith(start));
  }

  median(scenario: string, subject: string, figure: string): number {
    return this.summary(scenario, subject, figure)?.median ?? Number.NaN;
  }

  /** Names of the figures of a subject. */
  figures(scenario: string, subject: string): string[] {
    return [...(this.runs.summaries(scenario).get(subject)?.keys() ?? [])];
  }

  /** Median, with smallest and largest of several runs. */
  cell(scenario: string, subject: string, figure: string): string {
    const summary = this.summary(scenario, subject, figure);
    if (summary === undefined || summary.count === 0) {
      return '-';
    }
    const { median, min, max, count } = summary;
    return count === 1 ? shown(median) : `${shown(median)} (${shown(min)} to ${shown(max)})`;
  }

  /** One median divided by another one's. */
  ratio(scenario: string, subject: string, peer: string, figure: string): string {
    return times(this.median(scenario, subject, figure) / this.median(scenario, peer, figure));
  }

  /** A row for each subject that ran a scenario; the first one begins with the title. */
  rows(scenario: string, title: string, figures: readonly string[]): string[][] {
    const summaries = this.runs.summaries(scenario);
    return [...NAMES]
      .filter(([subject]) => summaries.has(subject))
      .map(([subject, text], place) => [
        place === 0 ? title : '',
        text,
        ...figures.map((figure) => this.cell(scenario, subject, figure)),
      ]);
  }

  private summary(scenario: string, subject: string, figure: string): Summary | undefined {
    return this.runs.summaries(scenario).get(subject)?.get(figure);
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
