import { readdirSync, readFileSync } from 'node:fs';

const ROOT = new URL('../../../', import.meta.url);

/** A block of code of a document. */
export interface Snippet {
  /** Path from the root. */
  readonly document: string;
  /** What stands behind the fence: `sh`, `ts file=events.ts`. */
  readonly language: string;
  readonly text: string;
  /** The document and the first line, to find it by. */
  readonly name: string;
}

/** README and everything in docs. */
export const DOCUMENTS: readonly string[] = [
  'README.md',
  ...readdirSync(new URL('docs', ROOT))
    .filter((name) => name.endsWith('.md'))
    .sort()
    .map((name) => `docs/${name}`),
];

/** The blocks of a document that say what language they are in. */
export function snippetsOf(document: string): Snippet[] {
  const text = readFileSync(new URL(document, ROOT), 'utf8');
  return [...text.matchAll(/^```(\w[^\n]*)\n(.*?)^```$/gms)].map(([, language, block]) => ({
    document,
    language: language!,
    text: block!,
    name: `${document}: ${block!.split('\n')[0]}`,
  }));
}
