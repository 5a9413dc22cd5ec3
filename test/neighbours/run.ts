import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { attackNames, loadAttack } from './attack.js';
import { Stage } from './stage.js';
import { KINDS, type VictimReport } from './victim.js';

const { values } = parseArgs({
  options: { seconds: { type: 'string', default: '20' }, attack: { type: 'string', multiple: true } },
});

const ms = (value: number | undefined): string => (value === undefined ? '-' : value.toFixed(value < 10 ? 1 : 0));

function row(title: string, { times, failures, closed }: VictimReport, processor: number): string {
  const cells = KINDS.map((kind) => {
    const sorted = times[kind].sort((a, b) => a - b);
    const at = (share: number): string => ms(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))]);
    return `${at(0.5)} / ${at(0.95)} / ${ms(sorted.at(-1))}`;
  });
  return `| ${[title, ...cells, failures.length, closed.length, `${processor} %`].join(' | ')} |`;
}

/** The long form: the same attacks, each for as long, with what the honest user has noticed. */
const seconds = Number(values.seconds);
let bad = false;
process.stdout.write('p50 / p95 / max of the victim, in milliseconds; processor of both workers\n\n');
process.stdout.write('| attack | PING | SUBSCRIBE | read | write | failed | closed | processor |\n');
process.stdout.write(`| --- |${' ---: |'.repeat(7)}\n`);
for (const name of ['quiet', ...(values.attack ?? attackNames())]) {
  const attack = name === 'quiet' ? undefined : await loadAttack(name);
  const stage = await Stage.make({ env: attack?.env ?? {} });
  try {
    await stage.startVictim();
    await sleep(2_000);
    await stage.report();
    const before = stage.processorMs();
    const start = performance.now();
    const running = attack === undefined ? undefined : await stage.attack(name);
    await sleep(seconds * 1_000);
    const processor = Math.round(((stage.processorMs() - before) / (performance.now() - start)) * 100);
    const report = await stage.report();
    process.stdout.write(`${row(attack?.title ?? 'none', report, processor)}\n`);
    if (running !== undefined) {
      await running.defeated();
      await running.stop();
      process.stderr.write(`${name}: ${JSON.stringify(running.outcome)}\n`);
    }
    bad ||= report.failures.length + report.closed.length > 0;
    for (const problem of [...report.failures, ...report.closed].slice(0, 5)) {
      process.stderr.write(`${name}: ${problem}\n`);
    }
  } finally {
    await stage.stop();
  }
}
process.exitCode = bad ? 1 : 0;
