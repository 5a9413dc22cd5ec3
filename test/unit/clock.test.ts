import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/**
 * Where the time of day is read, how often, and what for. The system's clock may step: durations, patience and limits are
 * measured by `performance.now()`. A time of day is for people and other systems to read.
 */
const TIMES_OF_DAY: Readonly<Record<string, readonly [count: number, what: string]>> = {
  'src/door/key-usage.ts': [1, 'when a key was used last, in the list of keys'],
  'src/door/rate-limit.ts': [1, 'the header X-RateLimit-Reset'],
  'src/protocol/messages.ts': [2, 'timestamp of an envelope'],
  'src/stats/health.ts': [1, 'timestamp of the health'],
};

/** `Date.now()`, `new Date()` and `Date()`; not `new Date(value)`, which reads no clock. */
const CLOCK = /\bDate\.now\b|\bDate\(\)|\bnew Date\b(?!\()/g;

describe('the time of day', () => {
  it('is read for timestamps only: durations go by performance.now(). Add a timestamp to the list of this test', () => {
    const found = Object.fromEntries(
      readdirSync(join(ROOT, 'src'), { recursive: true, encoding: 'utf8' })
        .filter((name) => name.endsWith('.ts'))
        .map((name) => {
          const path = `src/${name.replaceAll('\\', '/')}`;
          return [path, readFileSync(join(ROOT, path), 'utf8').match(CLOCK)?.length ?? 0] as const;
        })
        .filter(([, count]) => count > 0),
    );
    const listed = Object.fromEntries(Object.entries(TIMES_OF_DAY).map(([path, [count]]) => [path, count]));
    expect(found).to.deep.equal(listed);
  });
});
