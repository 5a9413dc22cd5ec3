import { parseArgs } from 'node:util';
import { endOnSignals } from '../support/end-on-signals.js';
import { STANDBY_PROGRAMS } from '../support/postgres.js';
import { missingPrograms } from '../support/programs.js';
import { HAPROXY, NGINX } from '../support/proxy.js';
import { REDIS_PROGRAMS } from '../support/redis.js';
import { PARTS, type Part } from './acts.js';
import { runScenario } from './scenario.js';

/** A day of a deployment in some minutes: `npm run scenario -- --seed 1 --clients 500 --seconds 180`. */
const { values } = parseArgs({
  options: {
    seed: { type: 'string', multiple: true },
    clients: { type: 'string', default: '500' },
    seconds: { type: 'string', default: '180' },
    // both, first or second
    part: { type: 'string', default: 'both' },
  },
});

if (!(PARTS as readonly string[]).includes(values.part)) {
  throw new Error(`--part wants one of ${PARTS.join(', ')}`);
}
const missing = missingPrograms([...STANDBY_PROGRAMS, ...REDIS_PROGRAMS, NGINX.program, HAPROXY.program]);
if (missing.length > 0) {
  throw new Error(`${missing.join(' and ')} not found in PATH`);
}
// Each part that is started has one.
process.setMaxListeners(0);
endOnSignals();
const start = performance.now();
for (const seed of values.seed ?? ['1']) {
  const report = await runScenario({
    seed: Number(seed),
    clients: Number(values.clients),
    seconds: Number(values.seconds),
    part: values.part as Part,
    progress: (line) => {
      process.stderr.write(`${((performance.now() - start) / 1_000).toFixed(1).padStart(8)} s  ${line}\n`);
    },
  });
  process.stdout.write(`${JSON.stringify(report, undefined, 2)}\n`);
  const { lost, twice, outOfOrder, unrecovered, gaveUp, strangeAnswers, unansweredOnPurpose, crashed } = report;
  if (lost + twice + outOfOrder + unrecovered + gaveUp + strangeAnswers + unansweredOnPurpose + crashed > 0) {
    process.exitCode = 1;
  }
}
