import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/**
 * Which files read the time of day, and what for. The system's clock may step: durations, patience and limits are
 * measured by `performance.now()`. A time of day is for people and other systems to read, and for keys that expire at one.
 */
const TIMES_OF_DAY: Readonly<Record<string, string>> = {
  'src/cli/keys.ts': 'when a key expires',
  'src/door/api-key.ts': 'when a key expires',
  'src/door/key-usage.ts': 'when a key was used last, in the list of keys',
  'src/door/rate-limit.ts': 'the header X-RateLimit-Reset',
  'src/door/tokens.ts': 'when a token was made and expires',
  'src/hub/credential-life.ts': 'when a key or token expires',
  'src/protocol/messages.ts': 'timestamp of an envelope',
  'src/schema/examine-database.ts': "how far the database's clock is from this one",
  'src/repository/key-input.ts': 'whether a key would expire in the past',
  'src/stats/health.ts': 'timestamp of the health',
};

/** `Date.now()`, `new Date()` and `Date()`; not `new Date(value)`, which reads no clock. */
const CLOCK = /\bDate\.now\b|\bDate\(\)|\bnew Date\b(?!\()/;

describe('the time of day', () => {
  it('is read for timestamps only, which this test lists; durations go by performance.now()', () => {
    const found = readdirSync(join(ROOT, 'src'), { recursive: true, encoding: 'utf8' })
      .map((name) => `src/${name.replaceAll('\\', '/')}`)
      .filter((path) => path.endsWith('.ts') && CLOCK.test(readFileSync(join(ROOT, path), 'utf8')));
    expect(found.filter((path) => TIMES_OF_DAY[path] === undefined)).to.deep.equal([]);
    expect(Object.keys(TIMES_OF_DAY).filter((path) => !found.includes(path))).to.deep.equal([]);
  });
});
