import { loadavg } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { attackNames, loadAttack } from './attack.js';
import { Stage } from './stage.js';
import { ASKED, type VictimReport } from './victim.js';

const { values } = parseArgs({
  options: { seconds: { type: 'string', default: '20' }, attack: { type: 'string', multiple: true } },
});

/** What the honest user's p95 may be in milliseconds, or so many times what it is when nobody attacks. */
const MOST_MS = 500;
const MOST_TIMES = 5;

const ms = (value: number | undefined): string => (value === undefined ? '-' : value.toFixed(value < 10 ? 1 : 0));

function share(times: readonly number[], part: number): number | undefined {
  const sorted = [...times].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))];
}

/** What one play has shown. */
interface Shown {
  readonly report: VictimReport;
  /** Processor of primary and workers, in percent of one core. */
  readonly processor: number;
}

/** Plays one attack, or none, on a stage of its own, and prints its row. @param quiet what was seen without an attack */
async function play(name: string, quiet: Shown | undefined): Promise<Shown> {
  const attack = name === 'quiet' ? undefined : await loadAttack(name);
  const stage = await Stage.make({ hangs: attack?.hangs === true });
  try {
    await stage.startVictim();
    await sleep(2_000);
    await stage.report();
    const running = attack === undefined ? undefined : await stage.attack(name);
    await stage.report();
    const before = stage.processorMs();
    const start = performance.now();
    await sleep(seconds * 1_000);
    const processor = Math.round(((stage.processorMs() - before) / (performance.now() - start)) * 100);
    const report = await stage.report();
    const slow = ASKED.filter((kind) => {
      const most = Math.max(MOST_MS, MOST_TIMES * (share(quiet?.report.times[kind] ?? [], 0.95) ?? 0));
      // One that waits for a worker that hangs is all that there is of its kind for a while.
      const none = attack?.mayFail === undefined ? Number.POSITIVE_INFINITY : 0;
      return (share(report.times[kind], 0.95) ?? none) > most;
    });
    const cells = ASKED.map((kind) => [0.5, 0.95, 1].map((part) => ms(share(report.times[kind], part))).join(' / '));
    const { failures, closed } = report;
    const attackers = quiet === undefined ? '-' : `${Math.max(0, processor - quiet.processor)} %`;
    const rest = [
      failures.length,
      closed.length,
      `${processor} %`,
      attackers,
      `${Math.round(stage.peakMb())} MB`,
      load(),
    ];
    process.stdout.write(`| ${[attack?.title ?? 'none', ...cells, ...rest].join(' | ')} |\n`);
    bad ||= failures.length > (attack?.mayFail ?? 0) || closed.length > 0 || slow.length > 0;
    for (const problem of [...slow.map((kind) => `p95 of ${kind}`), ...failures, ...closed].slice(0, 5)) {
      process.stderr.write(`${name}: ${problem}\n`);
    }
    if (running !== undefined) {
      await running.defeated().catch((error: Error) => {
        bad = true;
        process.stderr.write(`${name}: is not stopped: ${error.message}\n`);
      });
      await running.stop();
      process.stderr.write(`${name}: ${JSON.stringify(running.outcome)}\n`);
    }
    return { report, processor };
  } finally {
    await stage.stop();
  }
}

// Each stage ends its servers when this process ends.
process.setMaxListeners(0);

/** The machine's load, of the last minute. */
const load = (): string => loadavg()[0]!.toFixed(1);

/** The long form: the same attacks one by one, each for as long, with what the honest user has noticed. */
const seconds = Number(values.seconds);
let bad = false;
process.stdout.write(
  'p50 / p95 / max of the honest user in milliseconds; processor of primary and workers, and what of it is more than without an attack\n\n',
);
process.stdout.write(
  '| attack | PING | SUBSCRIBE | connect | read | write | failed | closed | processor | of the attacker | memory | load |\n',
);
process.stdout.write(`| --- |${' ---: |'.repeat(11)}\n`);
const quiet = await play('quiet', undefined);
for (const name of values.attack ?? attackNames()) {
  await play(name, quiet);
}
process.exitCode = bad ? 1 : 0;
