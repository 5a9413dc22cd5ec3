import { execFileSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import Mocha from 'mocha';

/** Folders of suites: what is quick and near the code first. The bench's own tests come last and are built only when they run. */
const FOLDERS = [
  'test/unit',
  'test/contract',
  'test/integration',
  'packages/client/test',
  'test/cluster',
  'test/neighbours',
  'test/fault',
  'bench/test',
];
/** The client's tests are a program of their own: in a browser's types, against the built package. */
const CLIENT = 'packages/client/test';
/** How long sockets and timers of the last test may take to end, in milliseconds. */
const CLEAN_UP_MS = 10_000;
const USAGE = `npm test                        all suites
npm test -- unit cluster        files with one of these words in their paths
npm test -- --grep 'keeps.*'    tests whose titles match`;

const BUILT = fileURLToPath(new URL('../', import.meta.url));
const ROOT = fileURLToPath(new URL('../../', import.meta.url));

/** A compiled file's path as its source has it, but for its ending. */
const path = (file: string): string =>
  relative(BUILT, file).split(sep).join('/').replace(`../${CLIENT}-dist/`, `${CLIENT}/`);

/** Compiled files of the suites that exist as sources, so that no left-over of an earlier build runs. */
function suites(words: readonly string[]): string[] {
  const files = FOLDERS.flatMap((folder) => {
    const names = readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' }).sort();
    return names
      .filter((name) => /\.test\.tsx?$/.test(name))
      .map((name) => name.replace(/tsx?$/, 'js'))
      .map((name) => (folder === CLIENT ? join(ROOT, `${CLIENT}-dist`, name) : join(BUILT, folder, name)));
  });
  return words.length === 0 ? files : files.filter((file) => words.some((word) => path(file).includes(word)));
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { grep: { type: 'string' }, help: { type: 'boolean' } },
});
const files = suites(positionals);

if (values.help) {
  process.stdout.write(`${USAGE}\n`);
} else if (files.length === 0) {
  process.stderr.write(`No test file has one of these words in its path: ${positionals.join(' ')}\n`);
  process.exitCode = 2;
} else {
  if (path(files.at(-1)!).startsWith('bench/')) {
    execFileSync('npm', ['run', '--silent', 'build:bench'], { cwd: ROOT, stdio: 'inherit' });
  }
  if (files.some((file) => path(file).startsWith(CLIENT))) {
    execFileSync('npm', ['run', '--silent', 'build:client-tests'], { cwd: ROOT, stdio: 'inherit' });
  }
  await run();
}

async function run(): Promise<void> {
  const mocha = new Mocha({
    reporter: 'spec',
    forbidOnly: true,
    timeout: 10_000,
    ...(values.grep === undefined ? {} : { grep: new RegExp(values.grep) }),
  });
  for (const file of files) {
    mocha.addFile(file);
  }
  await mocha.loadFilesAsync();
  const counts = { passed: 0, failed: 0, skipped: 0 };
  const runner = mocha.run(() => {
    // The last of the handlers: it ends the process whatever a test has left to be torn down.
    process.once('exit', () => {
      process.stdout.write(`${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped\n`);
      process.exit();
    });
    // A test that leaves something open has not ended what it started.
    setTimeout(() => {
      process.stderr.write(`Still open after the last test: ${process.getActiveResourcesInfo().join(', ')}\n`);
      counts.failed += 1;
      process.exit(1);
    }, CLEAN_UP_MS).unref();
  });
  runner.on('pass', () => {
    counts.passed += 1;
  });
  runner.on('fail', () => {
    counts.failed += 1;
    process.exitCode = 1;
  });
  runner.on('pending', () => {
    counts.skipped += 1;
  });
}
