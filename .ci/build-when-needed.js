// Builds before a start, unless what was built is newer than every source. An installation without the compiler
// (`npm ci --omit=dev`) runs what was built elsewhere.
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('..', import.meta.url));
const BUILT = join(ROOT, 'dist/cluster.js');

const changedAt = (path) => statSync(join(ROOT, path)).mtimeMs;
const newestSource = () =>
  Math.max(
    ...['cluster.ts', 'tsconfig.json', 'package-lock.json'].map(changedAt),
    ...readdirSync(join(ROOT, 'src'), { recursive: true }).map((name) => changedAt(join('src', name))),
  );
const compilerIsThere = existsSync(join(ROOT, 'node_modules/typescript'));

if (!existsSync(BUILT) || (compilerIsThere && changedAt('dist/cluster.js') < newestSource())) {
  execFileSync('npm', ['run', '--silent', 'build:server'], { cwd: ROOT, stdio: 'inherit' });
}
