/**
 * Measures taskwire and its peers, variant after variant in one go:
 *
 *     node dist/bench/run.js [scenario...] [--variants ours,plain,plain-ws] [--wire socketio|plain|both] [--repeats 3]
 *                            [--settle 120] [--load 1] [--fsync] [--env NAME=VALUE]... [--out bench/results] [--smoke]
 */
import { writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { endOnSignals } from '../test/support/end-on-signals.js';
import { missingPrograms } from '../test/support/programs.js';
import { machine, measurable, pinning, pinSelf } from './lib/machine.js';
import { CHARTED, fileNameOf, scenarioChart } from './lib/pictures.js';
import { Results } from './lib/results.js';
import { PROGRAMS, startServices } from './lib/services.js';
import { DEFAULT_VARIANTS, VARIANTS } from './lib/variants.js';
import { wiresOf } from './load/frames.js';
import { Context, type Subject } from './scenarios/context.js';
import { SCENARIOS } from './scenarios/index.js';

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    variants: { type: 'string' },
    wire: { type: 'string', default: 'both' },
    repeats: { type: 'string' },
    settle: { type: 'string' },
    load: { type: 'string', default: '1' },
    out: { type: 'string' },
    env: { type: 'string', multiple: true, default: [] },
    fsync: { type: 'boolean', default: false },
    smoke: { type: 'boolean', default: false },
  },
});

const { smoke } = values;
const out = values.out ?? (smoke ? join(tmpdir(), 'taskwire-bench') : join('bench', 'results'));
const names = positionals.length > 0 ? positionals : SCENARIOS.map(({ name }) => name);
const scenarios = names.map((name) => known(SCENARIOS, name));
const wires = wiresOf(values.wire);
const repeats = Number(values.repeats ?? (smoke ? 1 : 3));
const settleMs = 1_000 * Number(values.settle ?? (smoke ? 0.2 : 120));

const missing = missingPrograms(PROGRAMS);
if (missing.length > 0 || !measurable) {
  console.error(`The bench needs ${[...missing, ...(measurable ? [] : ['/proc of Linux'])].join(' and ')}.`);
  process.exit(1);
}

const subjects: Subject[] = [];
for (const name of values.variants?.split(',') ?? DEFAULT_VARIANTS) {
  const variant = known(VARIANTS, name);
  const reason = variant.missing();
  if (reason === undefined) {
    subjects.push(...variant.wires.filter((wire) => wires.includes(wire)).map((wire) => ({ variant, wire })));
  } else {
    console.log(`${name} is left out: ${reason}`);
  }
}

endOnSignals();
const cores = smoke ? {} : pinning();
pinSelf(cores.load);
const services = await startServices(values.fsync);
const stamp = new Date().toISOString().replace(/[:.]/g, '-');
const results = new Results(join(out, `${stamp}${smoke ? '-smoke' : ''}.jsonl`), {
  machine: machine(),
  smoke,
  fsync: values.fsync,
  env: values.env,
});
const context = new Context({
  services,
  pinning: cores,
  loadProcesses: Number(values.load),
  environment: Object.fromEntries(values.env.map((pair) => pair.split(/=(.*)/s).slice(0, 2))),
  smoke,
  settleMs,
});

let failed = false;
try {
  for (const scenario of scenarios) {
    const concerned = subjects.filter((subject) => scenario.concerns?.(subject) ?? true);
    for (let repeat = 1; repeat <= repeats; repeat += 1) {
      for (const subject of concerned) {
        await runOnce(scenario, subject, repeat);
      }
    }
  }
} finally {
  await services.stop();
}
const { runs } = results;
for (const scenario of runs.scenarios) {
  console.log(`\n${runs.text(scenario)}`);
  const ratios = runs.ratios(scenario, CHARTED);
  if (ratios !== undefined) {
    console.log(`\n${ratios}`);
  }
}
for (const scenario of runs.scenarios) {
  const picture = scenarioChart(runs, scenario);
  if (picture !== undefined) {
    writeFileSync(join(out, `${stamp}-${fileNameOf(scenario)}.svg`), picture);
  }
}
process.exit(failed ? 1 : 0);

async function runOnce(scenario: (typeof SCENARIOS)[number], subject: Subject, repeat: number): Promise<void> {
  const at = { variant: subject.variant.name, wire: subject.wire, repeat };
  const label = `${scenario.name} ${at.variant} ${at.wire} ${repeat}`;
  try {
    for (const { scenario: name, figures, problem } of await scenario.run(context, subject)) {
      results.add({ scenario: name, ...at, valid: problem === undefined, ...(problem ? { problem } : {}), figures });
      failed ||= problem !== undefined;
      console.log(`${label}: ${name} ${problem ?? 'done'}`);
    }
  } catch (error) {
    failed = true;
    const problem = (error as Error).message;
    results.add({ scenario: scenario.name, ...at, valid: false, problem, figures: {} });
    console.log(`${label}: ${problem}`);
  }
}

function known<Item extends { readonly name: string }>(items: readonly Item[], name: string): Item {
  const found = items.find((item) => item.name === name);
  if (found === undefined) {
    console.error(`No ${name}; there are ${items.map((item) => item.name).join(', ')}`);
    process.exit(1);
  }
  return found;
}
