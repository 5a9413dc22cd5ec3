import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { expect } from 'chai';
import { loadConfig, VARIABLES } from '../../src/config.js';
import { ERRORS, type ErrorCode, errorEntry } from '../../src/protocol/errors.js';

const ROOT = new URL('../../../', import.meta.url);
const read = (path: string): string => readFileSync(new URL(path, ROOT), 'utf8');

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

  it('links of documents lead somewhere', () => {
    const documents = [
      'README.md',
      'deploy/README.md',
      'bench/README.md',
      ...readdirSync(new URL('docs', ROOT)).map((name) => `docs/${name}`),
    ];
    const broken: string[] = [];
    for (const document of documents.filter((name) => name.endsWith('.md'))) {
      for (const [, target] of read(document).matchAll(/\]\((?!https?:|#)([^)#]+)(?:#[^)]*)?\)/g)) {
        if (!existsSync(new URL(target!, new URL(document, ROOT)))) {
          broken.push(`${document}: ${target}`);
        }
      }
    }
    expect(broken).to.deep.equal([]);
  });

  it('tests that docs/guarantees.md names exist', () => {
    const named = [...read('docs/guarantees.md').matchAll(/`(test\/[\w/.-]+)`(?:, "([^"]+)")?/g)];
    expect(named.length).to.be.greaterThan(8);
    for (const [, path, title] of named) {
      const text = read(path!);
      if (title !== undefined) {
        expect(text, path).to.contain(title);
      }
    }
  });
});
