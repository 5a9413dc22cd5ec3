// Builds the package: what src/index.ts of the server needs, as it was built there, and nothing else.
import { cpSync, mkdirSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const HOME = fileURLToPath(new URL('.', import.meta.url));
const SERVER = fileURLToPath(new URL('../../dist/src', import.meta.url));
const DIST = join(HOME, 'dist');
const IMPORTS = /(?:from|import)\s*\(?\s*['"](\.[^'"]+)\.js['"]/g;

/** A built file and every file that it imports, with one of two endings. */
function reach(file, ending, seen = new Set()) {
  if (!seen.has(file)) {
    seen.add(file);
    for (const [, target] of readFileSync(file, 'utf8').matchAll(IMPORTS)) {
      reach(join(dirname(file), target + ending), ending, seen);
    }
  }
  return seen;
}

rmSync(DIST, { recursive: true, force: true });
for (const ending of ['.js', '.d.ts']) {
  for (const file of reach(join(SERVER, `index${ending}`), ending)) {
    const target = join(DIST, relative(SERVER, file));
    mkdirSync(dirname(target), { recursive: true });
    cpSync(file, target);
  }
}
