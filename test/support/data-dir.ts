import { execFile } from 'node:child_process';
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { TASKWIRE } from './programs.js';

let model: Promise<string> | undefined;

/**
 * Puts an embedded database into a folder, as an instance that starts there for the first time would make it: with tables,
 * and nothing in them. It is made once in a process and copied, since making it takes longer than the rest of a start.
 */
export async function fillDataDir(folder: string): Promise<void> {
  model ??= makeModel();
  cpSync(join(await model, 'data'), join(folder, 'data'), { recursive: true });
}

async function makeModel(): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'taskwire-test-'));
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }));
  await promisify(execFile)(process.execPath, [TASKWIRE, 'migrate'], {
    env: { PATH: process.env['PATH'], DATA_DIR: folder },
  });
  return folder;
}
