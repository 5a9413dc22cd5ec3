import { type Summary, summarize } from './stats.js';
import { short, table } from './table.js';

/** One run of one variant. */
export interface Run {
  readonly scenario: string;
  readonly variant: string;
  readonly wire: string;
  readonly repeat: number;
  /** Whether everything arrived once and in order; a run that did not is shown but its figures do not count. */
  readonly valid: boolean;
  readonly problem?: string;
  readonly figures: Readonly<Record<string, number>>;
}

/** Runs, and what they say together. */
export class Runs {
  constructor(readonly runs: readonly Run[]) {}

  get scenarios(): string[] {
    return [...new Set(this.runs.map(({ scenario }) => scenario))];
  }

  /** The variants of a scenario, with the summary of each figure over the valid runs. */
  summaries(scenario: string): Map<string, Map<string, Summary>> {
    const runs = this.runs.filter((run) => run.scenario === scenario);
    const names = [...new Set(runs.map(nameOf))];
    return new Map(
      names.map((name) => {
        const valid = runs.filter((run) => nameOf(run) === name && run.valid);
        const figures = new Set(valid.flatMap((run) => Object.keys(run.figures)));
        return [name, new Map([...figures].map((figure) => [figure, summarize(values(valid, figure))]))];
      }),
    );
  }

  /** A table of a scenario: a row per figure, and a column per variant with median (minimum to maximum). */
  text(scenario: string): string {
    const summaries = this.summaries(scenario);
    const figures = new Set([...summaries.values()].flatMap((summary) => [...summary.keys()]));
    const rows = [...figures].map((figure) => [
      figure,
      ...[...summaries.values()].map((summary) => cell(summary.get(figure))),
    ]);
    const runs = this.runs.filter((run) => run.scenario === scenario);
    const counts = [...summaries.keys()].map((name) => {
      const all = runs.filter((run) => nameOf(run) === name);
      return `${all.filter(({ valid }) => valid).length} of ${all.length}`;
    });
    const problems = runs.filter((run) => !run.valid).map((run) => `- ${nameOf(run)}: ${run.problem}`);
    const body = table([scenario, ...summaries.keys()], [...rows, ['valid runs', ...counts]]);
    return [body, ...problems].join('\n');
  }

  /** A table of our medians divided by those of each peer: a row per figure that both have; undefined when there is none. */
  ratios(scenario: string, figures: readonly string[]): string | undefined {
    const summaries = [...this.summaries(scenario)];
    const pairs = summaries
      .filter(([name]) => isOurs(name))
      .flatMap((ours) => summaries.filter(([name]) => !isOurs(name)).map((peer) => [ours, peer] as const));
    const median = (summary: Map<string, Summary>, figure: string) => summary.get(figure)?.median ?? Number.NaN;
    const rows = figures
      .map((figure) => [
        figure,
        ...pairs.map(([[, ours], [, peer]]) => short(median(ours, figure) / median(peer, figure))),
      ])
      .filter((row) => row.slice(1).some((cell) => cell !== '-'));
    return rows.length === 0
      ? undefined
      : table([`${scenario}, ratios`, ...pairs.map(([[ours], [peer]]) => `${ours} / ${peer}`)], rows);
  }
}

/** Whether it is taskwire that a column is of. */
const isOurs = (name: string): boolean => name.startsWith('ours');

const nameOf = (run: Run): string => `${run.variant} ${run.wire}`;

function values(runs: readonly Run[], figure: string): number[] {
  return runs.map((run) => run.figures[figure] ?? Number.NaN);
}

/**
 * Median, with smallest and largest of several runs.
 * @param shown text of a number
 */
export function cell(summary: Summary | undefined, shown: (value: number) => string = short): string {
  if (summary === undefined || summary.count === 0) {
    return '-';
  }
  const { median, min, max, count } = summary;
  return count === 1 ? shown(median) : `${shown(median)} (${shown(min)} to ${shown(max)})`;
}
