import { parseArgs } from 'node:util';
import { random } from '../../../../dist/test/support/writers.js';
import { PAGE_FAULTS, SERVICE_FAULTS } from './faults.js';
import { Stage } from './stage.js';

const { values } = parseArgs({
  options: {
    minutes: { type: 'string', default: '10' },
    seed: { type: 'string', default: '1' },
    tabs: { type: 'string', default: '12' },
    rate: { type: 'string', default: '50' },
  },
});

/** Rows that are written between a fault and the quiet point after it. */
const BETWEEN = 50;
/** How long tokens live, in seconds: each tab has many. */
const TOKEN_SECONDS = 20;

/**
 * The long form of the browser test: for some minutes, whatever can happen to the service and to the pages happens, in an order
 * that the seed draws, often two at once. At each quiet point every row of every tab is compared with the table.
 */
const next = random(Number(values.seed));
const stage = new Stage({ seed: Number(values.seed), rate: Number(values.rate) });
const began = performance.now();
const minutes = (): number => (performance.now() - began) / 60_000;
const say = (text: string): void => {
  process.stderr.write(`${(minutes() * 60).toFixed(1).padStart(7)} s  ${text}\n`);
};
const shuffled = <Item>(items: readonly Item[]): Item[] =>
  items
    .map((item) => ({ item, at: next() }))
    .sort((a, b) => a.at - b.at)
    .map(({ item }) => item);

const report = {
  seed: Number(values.seed),
  minutes: 0,
  tabs: Number(values.tabs),
  transports: [] as string[],
  quietPoints: 0,
  rowsCompared: 0,
  wrongRows: 0,
  /** Quiet points at which a tab did not become right in time. */
  stuckTabs: 0,
  slowestMs: 0,
  rowsWritten: {} as Record<string, number>,
  failedWrites: 0,
  faults: {} as Record<string, number>,
};

async function look(): Promise<void> {
  report.quietPoints += 1;
  try {
    const { rows, wrong, lateMs } = await stage.quietPoint();
    report.rowsCompared += rows;
    report.wrongRows += wrong.length;
    report.slowestMs = Math.max(report.slowestMs, lateMs);
    say(`${wrong.length} of ${rows} rows wrong, shown after ${lateMs} ms`);
    for (const row of wrong.slice(0, 20)) {
      say(`  ${row}`);
    }
  } catch (error) {
    // A tab that does not become right has no right row.
    report.stuckTabs += 1;
    say(String((error as Error).stack));
    say(JSON.stringify(await stage.statuses().catch(String)));
  }
}

try {
  await stage.start();
  stage.tokenSeconds = TOKEN_SECONDS;
  await stage.openTabs(Number(values.tabs));
  report.transports = stage.sites.map(({ transport }) => transport);
  await look();
  const [services, pages] = [Object.entries(SERVICE_FAULTS), Object.entries(PAGE_FAULTS)];
  while (minutes() < Number(values.minutes)) {
    const [first, second] = [shuffled(services), shuffled(pages)];
    for (let turn = 0; turn < Math.max(first.length, second.length) && minutes() < Number(values.minutes); turn += 1) {
      const faults = [first[turn], second[turn]].flatMap((fault) => (fault === undefined ? [] : [fault]));
      say(faults.map(([title]) => title).join(' + '));
      await Promise.all(faults.map(([, fault]) => fault(stage)));
      stage.tokenSeconds = TOKEN_SECONDS;
      for (const [title] of faults) {
        report.faults[title] = (report.faults[title] ?? 0) + 1;
      }
      await stage.load.more(BETWEEN);
      await look();
    }
  }
} catch (error) {
  report.stuckTabs += 1;
  say(String((error as Error).stack));
}
report.minutes = Number(minutes().toFixed(1));
report.rowsWritten = stage.load?.written ?? {};
report.failedWrites = stage.load?.failed ?? 0;
process.stdout.write(`${JSON.stringify(report, undefined, 2)}\n`);
await stage.stop().catch((error: unknown) => say(String(error)));
process.exit(report.wrongRows + report.stuckTabs > 0 ? 1 : 0);
