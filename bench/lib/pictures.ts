import { barChart } from './chart.js';
import type { Runs } from './runs.js';

/** Figures that are drawn, and compared with the peers'; which way is better. */
const DRAWN = new Map([
  ['server_cpu_us_per_delivery', 'lower'],
  ['deliveries_per_s', 'higher'],
  ['latency_p99_ms', 'lower'],
  ['pss_kb_per_connection', 'lower'],
  ['settled_kb_per_connection', 'lower'],
  ['setup_cpu_us_per_connection', 'lower'],
  ['all_back_ms', 'lower'],
  ['server_cpu_us_per_connection', 'lower'],
  ['bare_p50_ms', 'lower'],
  ['repository_p50_ms', 'lower'],
  ['single_per_s', 'higher'],
  ['batch_per_s', 'higher'],
  ['public_port_per_s', 'higher'],
  ['rest_port_per_s', 'higher'],
]);

export const CHARTED: readonly string[] = [...DRAWN.keys()];

/** SVG of a scenario: the figures that this project is about, one group each; undefined when it has none of them. */
export function scenarioChart(runs: Runs, scenario: string): string | undefined {
  const summaries = [...runs.summaries(scenario)];
  const groups = [...DRAWN]
    .map(([title, better]) => ({
      title: `${title}, ${better} is better`,
      bars: summaries.flatMap(([label, summary]) => {
        const figure = summary.get(title);
        return figure === undefined || figure.count === 0
          ? []
          : [{ label, value: figure.median, min: figure.min, max: figure.max }];
      }),
    }))
    .filter(({ bars }) => bars.length > 0);
  return groups.length === 0 ? undefined : barChart(scenario, groups);
}

export const fileNameOf = (scenario: string): string => scenario.toLowerCase().replace(/[^a-z0-9]+/g, '-');
