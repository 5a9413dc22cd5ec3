import { existsSync, mkdirSync, statSync } from 'node:fs';
import { dirname } from 'node:path';

/** The folder of the data cannot be made, nor used. */
export class UnusableFolderError extends Error {
  override readonly name = 'UnusableFolderError';
}

/**
 * Makes a folder, and those above it that are missing, for its owner only.
 *
 * Each is made by itself: `mkdirSync` with `recursive` never returns where the system has no room for new folders (/proc).
 * @throws UnusableFolderError when that is not possible
 */
export function makeFolder(folder: string): void {
  const above = dirname(folder);
  if (above !== folder && !existsSync(above)) {
    makeFolder(above);
  }
  try {
    mkdirSync(folder, { mode: 0o700 });
  } catch (error) {
    if (isFolder(folder)) {
      return;
    }
    throw new UnusableFolderError(
      `no folder can be made there (${(error as Error).message}); choose another one with DATA_DIR`,
    );
  }
}

const isFolder = (path: string): boolean => existsSync(path) && statSync(path).isDirectory();
