import { closeSync, existsSync, fsyncSync, openSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

/** The file beside the database's folder that is there while its first start has not made all of its files. */
export const unfinishedFile = (data: string): string => `${data}-unfinished`;

/**
 * Notes that the first start of a database begins, if its folder is empty. What an earlier first start has left, that was
 * killed or found no room, is removed: Postgres takes files that are there for those of a whole database, and does not open.
 * Files that were there before it are of somebody else, and never removed.
 * @param data the database's folder, which exists; nobody else uses it
 */
export function beginFirstStart(data: string): void {
  const file = unfinishedFile(data);
  const names = readdirSync(data);
  if (existsSync(file)) {
    for (const name of names) {
      rmSync(join(data, name), { recursive: true, force: true });
    }
  } else if (names.length === 0) {
    writeFileSync(file, '', { mode: 0o600 });
    syncFolder(dirname(file));
  }
}

/**
 * Notes that the first start has made everything. To be called before anything is written for anybody: after it the files
 * are never removed again, not even when the machine fails in the next moment.
 * @param data the database's folder
 */
export function endFirstStart(data: string): void {
  const file = unfinishedFile(data);
  if (existsSync(file)) {
    rmSync(file);
    syncFolder(dirname(file));
  }
}

/** Has the system write down which files a folder has. On Windows folders cannot be opened. */
function syncFolder(folder: string): void {
  if (process.platform !== 'win32') {
    const file = openSync(folder, 'r');
    try {
      fsyncSync(file);
    } finally {
      closeSync(file);
    }
  }
}
