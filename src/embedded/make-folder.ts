import { randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { userInfo } from 'node:os';
import { dirname, join } from 'node:path';

/** The folder of the data cannot be made, nor used. */
export class UnusableFolderError extends Error {
  override readonly name = 'UnusableFolderError';
}

/** Codes of the system for a folder that this user will never write to. A disk without room may have some later. */
const UNWRITABLE = new Set(['EROFS', 'EACCES', 'EPERM', 'ENOTDIR']);

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

/**
 * Tries whether this process can make files in a folder. Whatever needs one later would fail in words of its own.
 * @throws UnusableFolderError when it never will
 */
export function tryFolder(folder: string): void {
  const probe = join(folder, `.probe-${randomBytes(6).toString('hex')}`);
  try {
    writeFileSync(probe, 'x', { mode: 0o600 });
  } catch (error) {
    throw asUnusable(folder, error);
  } finally {
    drop(probe);
  }
}

/**
 * Tries whether this process can use a folder or, where there is none, make it; leaves nothing behind.
 * @throws UnusableFolderError, or an error of the system
 */
export function tryPlace(folder: string): void {
  let there = folder;
  while (!existsSync(there)) {
    there = dirname(there);
  }
  if (!isFolder(there)) {
    throw new UnusableFolderError(`${there} is no folder; choose another one with DATA_DIR`);
  }
  tryFolder(there);
}

/** Removes a file, if it is there: in a folder of somebody else not even that can be known. */
function drop(file: string): void {
  try {
    rmSync(file, { force: true });
  } catch {
    // Whatever hinders it has hindered the file as well.
  }
}

/** An error of the system about a folder, said so that its reader knows what to do; any other error as it is. */
export function asUnusable(folder: string, error: unknown): unknown {
  const { code, message } = error as NodeJS.ErrnoException;
  return code !== undefined && UNWRITABLE.has(code)
    ? new UnusableFolderError(
        `${folder} cannot be written by user ${userName()} (${message}); ${remedy(folder)}, or choose another one with DATA_DIR`,
      )
    : error;
}

/** What to do about a folder. */
function remedy(folder: string): string {
  try {
    const { uid } = statSync(folder);
    return uid === process.geteuid?.() ? 'change that' : `run this as its owner (user ${uid}), change that`;
  } catch {
    return 'change that';
  }
}

/** In a container a user may have a number only. */
function userName(): string {
  try {
    return userInfo().username;
  } catch {
    return String(process.geteuid?.());
  }
}

const isFolder = (path: string): boolean => existsSync(path) && statSync(path).isDirectory();
