import { execFileSync, spawn } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Mutant, type NamedTest, SUITES } from './mutants.js';

export const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/** How long one run of a test may take, in milliseconds: a fault that makes it run for ever shows nothing. */
const TIME_LIMIT_MS = 120_000;

/** The text of a mutant's file with its replacements. @throws when a text does not stand there exactly once */
export function mutated({ name, file, edits }: Mutant): string {
  let source = readFileSync(join(ROOT, file), 'utf8');
  for (const [text, replacement] of edits) {
    const times = source.split(text).length - 1;
    if (times !== 1) {
      throw new Error(
        `The mutant "${name}" wants this text exactly once in ${file}, where it stands ${times} times. ` +
          `Change the mutant in test/fault/mutants.ts with the code:\n${text}`,
      );
    }
    source = source.replace(text, () => replacement);
  }
  return source;
}

const escaped = (text: string): string => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');

/** How the runner is told to run one test: a file, and a pattern of its whole title. */
function selectionOf({ file, title }: NamedTest): { file: string; grep: string } {
  const suite = SUITES[file];
  return suite === undefined
    ? { file, grep: `${escaped(title)}$` }
    : { file: suite.file, grep: `^${escaped(suite.title)} .*${escaped(title)}$` };
}

export interface TestRun {
  /** `absent`: nothing ran, or not all of it: a program is missing. */
  readonly outcome: 'passed' | 'failed' | 'absent' | 'crashed' | 'timed out';
  readonly output: string;
}

/** A copy of the built program in a folder of its own, where a mutant is put in and taken out again. */
export class MutantCopy {
  private readonly folder = mkdtempSync(join(tmpdir(), 'taskwire-mutants-'));

  constructor() {
    // Whatever is not built is the project's own.
    for (const name of readdirSync(ROOT).filter((entry) => !['dist', 'src', '.git'].includes(entry))) {
      symlinkSync(join(ROOT, name), join(this.folder, name));
    }
    for (const name of ['src', 'test']) {
      cpSync(join(ROOT, 'dist', name), join(this.folder, 'dist', name), { recursive: true });
    }
    cpSync(join(ROOT, 'dist/cluster.js'), join(this.folder, 'dist/cluster.js'));
  }

  remove(): void {
    rmSync(this.folder, { recursive: true });
  }

  /** Runs tests with a mutant in place. */
  async runWith(mutant: Mutant): Promise<TestRun> {
    const built = join(this.folder, 'dist', mutant.file.replace(/\.ts$/, '.js'));
    const whole = readFileSync(built);
    this.compile(mutant.file, mutated(mutant));
    try {
      return await this.run(mutant.killedBy);
    } finally {
      writeFileSync(built, whole);
    }
  }

  /** Runs one test with the program as it is. */
  run(test: NamedTest): Promise<TestRun> {
    const { file, grep } = selectionOf(test);
    return new Promise((resolve) => {
      const child = spawn(process.execPath, ['dist/test/run.js', file.replace(/\.ts$/, ''), '--grep', grep], {
        cwd: this.folder,
        stdio: ['ignore', 'pipe', 'pipe'],
        timeout: TIME_LIMIT_MS,
        killSignal: 'SIGKILL',
      });
      let output = '';
      for (const stream of [child.stdout, child.stderr]) {
        stream.setEncoding('utf8').on('data', (text: string) => {
          output += text;
        });
      }
      child.on('close', (_code, signal) => {
        const counts = /^(\d+) passed, (\d+) failed, (\d+) skipped$/m.exec(output)?.slice(1).map(Number);
        const [passed = 0, failed = 0, skipped = 0] = counts ?? [];
        const outcome =
          signal !== null
            ? 'timed out'
            : counts === undefined
              ? 'crashed'
              : failed > 0
                ? 'failed'
                : passed > 0 && skipped === 0
                  ? 'passed'
                  : 'absent';
        resolve({ outcome, output });
      });
    });
  }

  /** Compiles one file by itself, types unchecked: a fault needs no good types. */
  private compile(file: string, source: string): void {
    const work = join(this.folder, 'compile');
    mkdirSync(join(work, file, '..'), { recursive: true });
    writeFileSync(join(work, file), source);
    writeFileSync(
      join(work, 'tsconfig.json'),
      JSON.stringify({
        extends: join(ROOT, 'tsconfig.json'),
        compilerOptions: {
          ...{ noCheck: true, noResolve: true, types: [], declaration: false, sourceMap: false },
          ...{ rootDir: '.', outDir: join(this.folder, 'dist') },
        },
        include: [],
        files: [file],
      }),
    );
    writeFileSync(join(work, 'package.json'), '{ "type": "module" }');
    execFileSync(process.execPath, [join(ROOT, 'node_modules/typescript/bin/tsc'), '-p', work]);
    rmSync(work, { recursive: true });
  }
}
