import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { TASKWIRE } from './programs.js';

/** A result of `taskwire check --json`. */
export interface Finding {
  readonly check: string;
  readonly status: string;
  readonly message: string;
  readonly hint?: string;
}

/** Runs `taskwire check --json` with these variables and arguments. */
export async function check(
  env: Record<string, string>,
  ...args: string[]
): Promise<{ code: number; findings: Finding[] }> {
  const child = spawn(process.execPath, [TASKWIRE, 'check', '--json', ...args], {
    env: { PATH: process.env['PATH'], WORKERS: '2', ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let out = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    out += text;
  });
  const [code] = (await once(child, 'close')) as [number];
  return { code, findings: JSON.parse(out) as Finding[] };
}

/** The results of one kind of check. */
export const of = (findings: readonly Finding[], name: string): Finding[] =>
  findings.filter(({ check }) => check === name);
