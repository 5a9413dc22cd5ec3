import { appendFileSync, mkdirSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { type Run, Runs } from './runs.js';

/** A file of runs, each a line of JSON that is written when the run is over. */
export class Results {
  private readonly added: Run[] = [];

  /**
   * @param file made, with its folder, by the first run
   * @param common what each line has beside its run
   */
  constructor(
    private readonly file: string,
    private readonly common: Readonly<Record<string, unknown>>,
  ) {}

  add(run: Run): void {
    this.added.push(run);
    mkdirSync(dirname(this.file), { recursive: true });
    appendFileSync(this.file, `${JSON.stringify({ at: new Date().toISOString(), ...run, ...this.common })}\n`);
  }

  get runs(): Runs {
    return new Runs(this.added);
  }
}

/** All runs of a folder of results. */
export function readResults(folder: string): Runs {
  const files = readdirSync(folder).filter((name) => name.endsWith('.jsonl'));
  const lines = files.flatMap((name) => readFileSync(join(folder, name), 'utf8').trim().split('\n'));
  return new Runs(lines.map((line) => JSON.parse(line) as Run));
}
