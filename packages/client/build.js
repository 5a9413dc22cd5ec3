// Builds the package: the error table from the server's, ES modules and types by tsc, CommonJS by esbuild.
import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { transformSync } from 'esbuild';

const HOME = fileURLToPath(new URL('.', import.meta.url));
const SERVER_TABLE = new URL('../../dist/src/protocol/errors.js', import.meta.url);
const DIST = join(HOME, 'dist');

/** The table of the server, as a module of this package: nothing of the server is imported by a page. */
async function writeErrorTable() {
  const { ERRORS } = await import(SERVER_TABLE.href).catch((cause) => {
    throw new Error('Build the server first: npm run build:server', { cause });
  });
  const later = Object.keys(ERRORS).filter((code) => ERRORS[code].retry === 'later');
  const text = `// Written by build.js from src/protocol/errors.ts of the server. Change that one.

/** Every error of the server: message, HTTP status, close code of a WebSocket, and whether to come back later. */
export const ERRORS = ${JSON.stringify(ERRORS, undefined, 2)} as const;

/** Every code of the table. */
export type ErrorCode = keyof typeof ERRORS;

/** Codes after which one comes back by itself. */
export const LATER: readonly string[] = ${JSON.stringify(later)};
`;
  const file = join(HOME, 'src', 'error-table.ts');
  let before = '';
  try {
    before = readFileSync(file, 'utf8');
  } catch {
    // The first build.
  }
  if (before !== text) {
    writeFileSync(file, text);
  }
}

function compile() {
  rmSync(DIST, { recursive: true, force: true });
  const require = createRequire(import.meta.url);
  const tsc = join(dirname(require.resolve('typescript/package.json')), 'bin', 'tsc');
  execFileSync(process.execPath, [tsc, '-p', join(HOME, 'tsconfig.json')], { stdio: 'inherit' });
}

/** For `require`: the same files, under names that say what they are. */
function writeCommonJs() {
  const toCjs = (text) => text.replace(/((?:from|import|require)\s*\(?\s*['"]\.{1,2}\/[^'"]+)\.js(['"])/g, '$1.cjs$2');
  for (const name of readdirSync(DIST)) {
    const text = readFileSync(join(DIST, name), 'utf8');
    if (name.endsWith('.d.ts')) {
      writeFileSync(join(DIST, name.replace(/\.d\.ts$/, '.d.cts')), toCjs(text));
    } else if (name.endsWith('.js')) {
      const { code } = transformSync(text, { format: 'cjs', target: 'es2022', platform: 'neutral' });
      writeFileSync(join(DIST, name.replace(/\.js$/, '.cjs')), toCjs(code));
    }
  }
}

await writeErrorTable();
compile();
writeCommonJs();
