import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { expect } from 'chai';
import { loadConfig, VARIABLES } from '../../src/config.js';
import { ERRORS, type ErrorCode, errorEntry } from '../../src/protocol/errors.js';

const ROOT = new URL('../../../', import.meta.url);
const read = (path: string): string => readFileSync(new URL(path, ROOT), 'utf8');

/** What may stand after the # of a link to a document, as GitHub names headings. */
function anchorsOf(text: string): string[] {
  const counts = new Map<string, number>();
  const outsideOfCode = text.replace(/^```.*?^```/gms, '');
  return [...outsideOfCode.matchAll(/^#{1,6} +(.+?) *#*$/gm)].map(([, heading]) => {
    const name = heading!
      .toLowerCase()
      .replace(/\[([^\]]*)\]\([^)]*\)/g, '$1')
      .replace(/[^\p{L}\p{N}\p{M}\p{Pc} -]/gu, '')
      .replaceAll(' ', '-');
    const count = counts.get(name) ?? 0;
    counts.set(name, count + 1);
    return count === 0 ? name : `${name}-${count}`;
  });
}

describe('documents', () => {
  it('.env.example lists every variable, with its default', () => {
    const given = new Map(
      [...read('.env.example').matchAll(/^([A-Z_]+)=(.*)$/gm)].map((match) => [match[1]!, match[2]!]),
    );
    expect([...given.keys()].sort()).to.deep.equal([...VARIABLES].sort());
    const set = Object.fromEntries([...given].filter(([, value]) => value !== ''));
    expect(loadConfig(set)).to.deep.equal(loadConfig({}));
  });

  it('docs/errors.md is the table of the program', () => {
    const rows = [
      ...read('docs/errors.md').matchAll(/^\| `([A-Z_]+)` \| (.*) \| (\d+) \| (\d+)? ?\| (later|never) \|$/gm),
    ];
    const documented = rows.map(([, code, message, status, close, retry]) => ({
      code,
      message,
      status: Number(status),
      close: close === undefined ? undefined : Number(close),
      retry,
    }));
    const table = (Object.keys(ERRORS) as ErrorCode[]).map((code) => {
      const { message, status, close, retry } = errorEntry(code);
      return { code, message, status, close, retry };
    });
    expect(documented).to.deep.equal(table);
  });

  it('have the anchors that GitHub gives them', () => {
    const text = '# One\n## `Two` & [three](x.md)!\n```sh\n# no heading\n```\n### One\n## Ü_b-c #\n';
    expect(anchorsOf(text)).to.deep.equal(['one', 'two--three', 'one-1', 'ü_b-c']);
  });

  it('links of documents lead somewhere', () => {
    const documents = [
      'README.md',
      'CONTRIBUTING.md',
      'CHANGELOG.md',
      'deploy/README.md',
      'bench/README.md',
      ...readdirSync(new URL('docs', ROOT)).map((name) => `docs/${name}`),
    ];
    const broken: string[] = [];
    for (const document of documents.filter((name) => name.endsWith('.md'))) {
      for (const [, target, , anchor] of read(document).matchAll(/\]\((?!https?:)([^)#\s]*)(#([^)\s]*))?\)/g)) {
        const url = target === '' ? new URL(document, ROOT) : new URL(target!, new URL(document, ROOT));
        const there =
          existsSync(url) && (anchor === undefined || anchorsOf(readFileSync(url, 'utf8')).includes(anchor));
        if (!there) {
          broken.push(`${document}: ${target}${anchor === undefined ? '' : `#${anchor}`}`);
        }
      }
    }
    expect(broken).to.deep.equal([]);
  });

  it('tests that docs/guarantees.md names exist', () => {
    const named = [...read('docs/guarantees.md').matchAll(/`((?:packages\/\w+\/)?test\/[\w/.-]+)`(?:, "([^"]+)")?/g)];
    expect(named.length).to.be.greaterThan(8);
    for (const [, path, title] of named) {
      const text = read(path!);
      if (title !== undefined) {
        expect(text, path).to.contain(title);
      }
    }
  });
});
