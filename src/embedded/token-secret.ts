import { randomBytes } from 'node:crypto';
import { chmodSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** The secret of tokens that an embedded service makes for itself and keeps: tokens outlive its restart. */
export function tokenSecret(dir: string): string {
  const file = join(dir, 'token-secret');
  if (!existsSync(file)) {
    writeFileSync(file, randomBytes(32).toString('base64url'), { mode: 0o600 });
  }
  // Whatever the mask of the process was, or somebody made of it.
  chmodSync(file, 0o600);
  return readFileSync(file, 'utf8').trim();
}
