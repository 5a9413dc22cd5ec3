import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const HOME = fileURLToPath(new URL('../../', import.meta.url));
const DOCUMENT = new URL('../../../../docs/client.md', import.meta.url);

/** Where the snippets are written: inside the package, so that they find what is installed. */
export const SNIPPETS = join(HOME, 'test-dist', 'snippets');

/** Writes every snippet of docs/client.md that has a name to a file of its own. @returns the names */
export function writeSnippets(): string[] {
  rmSync(SNIPPETS, { recursive: true, force: true });
  mkdirSync(SNIPPETS, { recursive: true });
  const text = readFileSync(DOCUMENT, 'utf8');
  return [...text.matchAll(/^```(?:ts|tsx) file=(\S+)\n([\s\S]*?)^```$/gm)].map(([, name, code]) => {
    writeFileSync(join(SNIPPETS, name!), code!);
    return name!;
  });
}

/** Snippets of code that have no name, which no test would see. */
export function namelessSnippets(): string[] {
  return [...readFileSync(DOCUMENT, 'utf8').matchAll(/^```(?:ts|tsx|js|jsx)\n([\s\S]*?)^```$/gm)].map(
    ([, code]) => code!,
  );
}

/** Runs a snippet. @param here replaces what it names (an address, a key) by what there is here. @returns what it exports */
export async function load<Exports>(name: string, here: Readonly<Record<string, string>> = {}): Promise<Exports> {
  const outfile = join(SNIPPETS, name.replace(/\.tsx?$/, '.cjs'));
  const text = Object.entries(here).reduce(
    (code, [from, to]) => code.replaceAll(from, to),
    readFileSync(join(SNIPPETS, name), 'utf8'),
  );
  await build({
    stdin: { contents: text, resolveDir: SNIPPETS, sourcefile: name, loader: name.endsWith('x') ? 'tsx' : 'ts' },
    jsx: 'automatic',
    bundle: true,
    platform: 'node',
    format: 'cjs',
    outfile,
    packages: 'external',
    alias: { 'react-native': join(SNIPPETS, 'react-native-stub.ts') },
    logLevel: 'error',
  });
  return createRequire(import.meta.url)(outfile) as Exports;
}
