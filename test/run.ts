import { execFileSync, fork } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import Mocha from 'mocha';
import { endOnSignals } from './support/end-on-signals.js';

/**
 * Folders of suites, in two lanes that run beside each other: most tests of the second wait for servers, not for the processor.
 * In each lane what is quick and near the code comes first. The bench's own tests are built only when they run.
 */
const LANES = [
  ['test/unit', 'test/contract', 'test/integration', 'packages/client/test', 'bench/test'],
  ['test/cluster', 'test/neighbours', 'test/fault'],
];
/** The client's tests are a program of their own: in a browser's types, against the built package. */
const CLIENT = 'packages/client/test';
/** How long sockets and timers of the last test may take to end, in milliseconds. */
const CLEAN_UP_MS = 10_000;
/** How many of the files that took longest are named at the end. */
const SLOWEST = 10;
/** How many characters of a failed test's reason stand in the last lines. */
const REASON_LENGTH = 2_000;
const USAGE = `npm test                        all suites
npm test -- unit cluster        files with one of these words in their paths
npm test -- --grep 'keeps.*'    tests whose titles match`;

const BUILT = fileURLToPath(new URL('../', import.meta.url));
const ROOT = fileURLToPath(new URL('../../', import.meta.url));

/** A compiled file's path as its source has it, but for its ending. */
const path = (file: string): string =>
  relative(BUILT, file).split(sep).join('/').replace(`../${CLIENT}-dist/`, `${CLIENT}/`);

/** Compiled files of the suites that exist as sources, so that no left-over of an earlier build runs. */
function suites(folders: readonly string[], words: readonly string[]): string[] {
  const files = folders.flatMap((folder) => {
    const names = readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' }).sort();
    return names
      .filter((name) => /\.test\.tsx?$/.test(name))
      .map((name) => name.replace(/tsx?$/, 'js'))
      .map((name) => (folder === CLIENT ? join(ROOT, `${CLIENT}-dist`, name) : join(BUILT, folder, name)));
  });
  return words.length === 0 ? files : files.filter((file) => words.some((word) => path(file).includes(word)));
}

interface Counts {
  passed: number;
  skipped: number;
  /** The tests that failed: title and reason. */
  failed: string[];
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { grep: { type: 'string' }, help: { type: 'boolean' }, lane: { type: 'string' } },
});
endTogether();
const lanes = LANES.map((folders) => suites(folders, positionals));
const busy = lanes.flatMap((files, lane) => (files.length === 0 ? [] : [lane]));

if (values.help) {
  process.stdout.write(`${USAGE}\n`);
} else if (busy.length === 0) {
  process.stderr.write(`No test file has one of these words in its path: ${positionals.join(' ')}\n`);
  process.exitCode = 2;
} else if (values.lane !== undefined) {
  await run(lanes[Number(values.lane)]!);
} else {
  build(lanes.flat().map(path));
  if (busy.length === 1) {
    await run(lanes[busy[0]!]!);
  } else {
    await runBeside(busy);
  }
}

/** Whoever is ended by a signal ends the servers that its tests have started (handlers of `exit`), and a lane ends with the run. */
function endTogether(): void {
  endOnSignals();
  process.once('disconnect', () => process.exit(1));
  // A listener alone would keep a lane's process.
  process.channel?.unref();
}

/** Builds what only some suites need. */
function build(paths: readonly string[]): void {
  const npmRun = (script: string): void => {
    execFileSync('npm', ['run', '--silent', script], { cwd: ROOT, stdio: 'inherit' });
  };
  if (paths.some((name) => name.startsWith('bench/'))) {
    npmRun('build:bench');
  }
  if (paths.some((name) => name.startsWith(CLIENT))) {
    npmRun('build:client-tests');
  }
}

/** Runs each lane in a process of its own. The first one shows what it does; what the others say follows when it has ended. */
async function runBeside(numbers: readonly number[]): Promise<void> {
  const total: Counts = { passed: 0, skipped: 0, failed: [] };
  const running = numbers.map((lane, index) => {
    const child = fork(fileURLToPath(import.meta.url), [...process.argv.slice(2), '--lane', String(lane)], {
      stdio: ['ignore', index === 0 ? 'inherit' : 'pipe', 'inherit', 'ipc'],
    });
    child.on('message', ({ passed, skipped, failed }: Counts) => {
      total.passed += passed;
      total.skipped += skipped;
      total.failed.push(...failed);
    });
    return { ended: once(child, 'exit'), said: child.stdout === null ? '' : text(child.stdout) };
  });
  for (const { ended, said } of running) {
    const [code] = await ended;
    process.stdout.write(await said);
    if (code !== 0) {
      process.exitCode = 1;
    }
  }
  process.stdout.write(`${tell(total)}\n`);
}

/** How many there were, and last of all what has to be looked at. */
function tell({ passed, skipped, failed }: Counts): string {
  const counts = `${passed} passed, ${failed.length} failed, ${skipped} skipped`;
  return [counts, ...failed.map((title) => `  failed: ${title}`)].join('\n');
}

/** Runs files in this process, which ends with the last test. */
async function run(files: readonly string[]): Promise<void> {
  const mocha = new Mocha({
    reporter: 'spec',
    forbidOnly: true,
    // A guard against what hangs; how long a test takes decides nothing.
    timeout: 30_000,
    ...(values.grep === undefined ? {} : { grep: new RegExp(values.grep) }),
  });
  for (const file of files) {
    mocha.addFile(file);
  }
  await mocha.loadFilesAsync();
  const counts: Counts = { passed: 0, skipped: 0, failed: [] };
  const times = new Map<string, number>();
  let lookedAt = performance.now();
  const runner = mocha.run(() => {
    process.send?.(counts);
    // The last of the handlers: it ends the process whatever a test has left to be torn down.
    process.once('exit', () => {
      process.stdout.write(`${slowest(times)}\n\n${tell(counts)}\n`);
      process.exit();
    });
    // A test that leaves something open has not ended what it started.
    setTimeout(() => {
      const left = `nothing is open after the last test, but: ${process.getActiveResourcesInfo().join(', ')}`;
      counts.failed.push(left);
      process.send?.({ passed: 0, skipped: 0, failed: [left] } satisfies Counts);
      process.exit(1);
    }, CLEAN_UP_MS).unref();
  });
  runner.on('suite end', ({ file }) => {
    const now = performance.now();
    if (file !== undefined) {
      times.set(path(file), (times.get(path(file)) ?? 0) + now - lookedAt);
    }
    lookedAt = now;
  });
  runner.on('pass', () => {
    counts.passed += 1;
  });
  runner.on('fail', (test, error: Error) => {
    counts.failed.push(`${test.fullTitle()}\n    ${error.message.slice(0, REASON_LENGTH).replaceAll('\n', '\n    ')}`);
    process.exitCode = 1;
  });
  runner.on('pending', () => {
    counts.skipped += 1;
  });
}

/** The files that took longest, a line each. @param times by file, in milliseconds */
function slowest(times: ReadonlyMap<string, number>): string {
  const sorted = [...times].sort(([, a], [, b]) => b - a).slice(0, SLOWEST);
  const lines = sorted.map(([file, ms]) => `${(ms / 1_000).toFixed(0).padStart(6)} s  ${file.replace(/js$/, 'ts')}`);
  return ['  slowest files', ...lines].join('\n');
}
