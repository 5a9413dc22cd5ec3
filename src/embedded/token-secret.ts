import { randomBytes } from 'node:crypto';
import { chmodSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/**
 * The secret of tokens that an embedded service makes for itself and keeps: tokens outlive its restart. The file is there as a whole
 * or not at all. An empty one, as earlier versions left it on a full disk, counts as none.
 */
export function tokenSecret(dir: string): string {
  const file = join(dir, 'token-secret');
  if (readSecret(file) === '') {
    const whole = `${file}.new`;
    writeFileSync(whole, randomBytes(32).toString('base64url'), { mode: 0o600, flush: true });
    renameSync(whole, file);
  }
  // Whatever the mask of the process was, or somebody made of it.
  chmodSync(file, 0o600);
  return readSecret(file);
}

/** @returns an empty text when there is none */
function readSecret(file: string): string {
  try {
    return readFileSync(file, 'utf8').trim();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') {
      return '';
    }
    throw error;
  }
}
