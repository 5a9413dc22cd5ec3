import { linkSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** The folder belongs to a process that is alive. */
export class FolderInUseError extends Error {
  override readonly name = 'FolderInUseError';

  constructor(
    readonly folder: string,
    readonly pid: number,
  ) {
    super(`${folder} is in use by process ${pid}; stop it, or choose another folder with DATA_DIR`);
  }
}

const held = new Set<string>();

/**
 * When a process started, as its kernel counts: a number may be in use again, by another program, after a restart of the
 * machine or of a container. Empty where the system does not tell.
 */
function startOf(pid: number): string {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name in parentheses may hold anything; the 20th field after it is the start time.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '';
  } catch {
    return '';
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

/** @returns the process that holds the lock, undefined when it is gone */
function holder(file: string, content: string): number | undefined {
  const [pid, start] = content.trim().split(' ');
  const id = Number(pid);
  const alive = Number.isInteger(id) && id > 0 && (id === process.pid ? held.has(file) : isAlive(id));
  return alive && (start === undefined || startOf(id) === start) ? id : undefined;
}

/**
 * Takes a folder for this process. A lock that a dead process left behind is taken over.
 * @returns gives the folder back
 * @throws FolderInUseError
 */
export function lockFolder(folder: string): () => void {
  const file = join(folder, 'lock');
  const content = `${process.pid} ${startOf(process.pid)}`.trim();
  for (;;) {
    try {
      writeFileSync(file, content, { flag: 'wx', mode: 0o600 });
      held.add(file);
      return () => {
        held.delete(file);
        rmSync(file, { force: true });
      };
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') {
        throw error;
      }
    }
    removeStale(folder, file);
  }
}

/** Takes a lock away by a rename, which only one of several processes can do, and puts it back if it was not stale. */
function removeStale(folder: string, file: string): void {
  const aside = `${file}.${process.pid}`;
  try {
    const pid = holder(file, readFileSync(file, 'utf8'));
    if (pid !== undefined) {
      throw new FolderInUseError(folder, pid);
    }
    renameSync(file, aside);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      return;
    }
    throw error;
  }
  const pid = holder(file, readFileSync(aside, 'utf8'));
  if (pid !== undefined) {
    linkSync(aside, file);
  }
  rmSync(aside, { force: true });
  if (pid !== undefined) {
    throw new FolderInUseError(folder, pid);
  }
}
