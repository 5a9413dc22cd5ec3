import { parseArgs } from 'node:util';
import { type FaultKind, LOAD_KINDS, type LoadKind, runFaults } from './driver.js';
import { REDIS_FAULTS, type RedisKind } from './redis-side.js';
import { runStorm } from './storm.js';

const { values } = parseArgs({
  options: {
    seed: { type: 'string', multiple: true },
    instances: { type: 'string', default: '3' },
    workers: { type: 'string', default: '2' },
    subscribers: { type: 'string', default: '200' },
    writes: { type: 'string', default: '200000' },
    faults: { type: 'string', default: '60' },
    kind: { type: 'string', multiple: true },
    // server, cluster or sentinels
    redis: { type: 'string', default: 'server' },
    // plain, or mixed: writers of all kinds
    load: { type: 'string', default: 'plain' },
    storm: { type: 'string', default: '1000' },
  },
});

if (!Object.hasOwn(REDIS_FAULTS, values.redis)) {
  throw new Error(`--redis wants one of ${Object.keys(REDIS_FAULTS).join(', ')}`);
}

if (!(LOAD_KINDS as readonly string[]).includes(values.load)) {
  throw new Error(`--load wants one of ${LOAD_KINDS.join(', ')}`);
}

/** An event loop that is held up for so long in the storm is not fit for it. */
const MAX_LOOP_DELAY_MS = 200;

/** The long form of the fault suite: faults under load, once a seed, then a storm of clients that come back. */
const start = performance.now();
let bad = false;
for (const seed of values.seed ?? ['1', '2', '3']) {
  const report = await runFaults({
    seed: Number(seed),
    instances: Number(values.instances),
    workers: Number(values.workers),
    subscribers: Number(values.subscribers),
    writes: Number(values.writes),
    faults: Number(values.faults),
    redis: values.redis as RedisKind,
    load: values.load as LoadKind,
    ...(values.kind === undefined ? {} : { kinds: values.kind as FaultKind[] }),
    progress: (line) => {
      process.stderr.write(`${((performance.now() - start) / 1_000).toFixed(1).padStart(8)} s  ${line}\n`);
    },
  });
  process.stdout.write(`${JSON.stringify(report, undefined, 2)}\n`);
  bad ||= report.lost + report.duplicated + report.outOfOrder + report.unrecovered + report.crashed > 0;
}
if (Number(values.storm) > 0) {
  const report = await runStorm({ clients: Number(values.storm), writes: 5_000 });
  process.stdout.write(`${JSON.stringify(report, undefined, 2)}\n`);
  bad ||= report.problems.length + report.unrecovered > 0 || report.loopDelayMs >= MAX_LOOP_DELAY_MS;
}
process.exitCode = bad ? 1 : 0;
