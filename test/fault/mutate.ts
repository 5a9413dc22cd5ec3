import { MutantCopy, mutated } from './mutant-copy.js';
import { MUTANTS, type Mutant } from './mutants.js';

/*
 * Puts each mutant of the list into a copy of the program and runs the test that is to fail: `npm run mutants`, with
 * words for those whose names or files have one of them. Each test is first shown to pass without a mutant.
 * Exit code 1 when a mutant survives, or when a test does not pass without one.
 */

const words = process.argv.slice(2);
const chosen = MUTANTS.filter(
  ({ name, file }) => words.length === 0 || words.some((word) => name.includes(word) || file.includes(word)),
);

const say = (line: string): boolean => process.stdout.write(`${line}\n`);
/** What the failing test said first. */
const reasonOf = (output: string): string => /^\s*(\w*Error: .*)$/m.exec(output)?.[1]?.slice(0, 160) ?? '';
const testOf = ({ killedBy: { file, title } }: Mutant): string => `${file}, "${title}"`;

if (chosen.length === 0) {
  process.stderr.write(`No mutant has one of these words in its name or file: ${words.join(' ')}\n`);
  process.exit(2);
}
// All texts first: a list that does not fit the code any more says so before minutes have passed.
for (const mutant of chosen) {
  mutated(mutant);
}

const copy = new MutantCopy();
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => process.exit(130));
}
process.once('exit', () => copy.remove());

const bad: string[] = [];
const good = new Set<string>();
say('Without a mutant:');
for (const mutant of new Map(chosen.map((one) => [testOf(one), one])).values()) {
  const { outcome, output } = await copy.run(mutant.killedBy);
  say(`  ${outcome.padEnd(9)} ${testOf(mutant)}`);
  if (outcome === 'passed') {
    good.add(testOf(mutant));
  } else {
    bad.push(`${testOf(mutant)} ${outcome} without a mutant:\n${output}`);
  }
}
say('With each mutant:');
let killed = 0;
for (const mutant of chosen.filter((one) => good.has(testOf(one)))) {
  const { outcome, output } = await copy.runWith(mutant);
  const dead = outcome === 'failed';
  killed += dead ? 1 : 0;
  const word = dead ? 'killed' : outcome === 'passed' ? 'SURVIVED' : outcome.toUpperCase();
  say(`  ${word.padEnd(9)} ${mutant.name} (${mutant.file})${dead ? `\n${' '.repeat(12)}${reasonOf(output)}` : ''}`);
  if (!dead) {
    bad.push(`${mutant.name} (${mutant.file}): ${testOf(mutant)} ${outcome}\n${outcome === 'passed' ? '' : output}`);
  }
}
say(`${killed} of ${chosen.length} mutants killed`);
for (const text of bad) {
  say(`\n${text}`);
}
process.exitCode = bad.length > 0 ? 1 : 0;
