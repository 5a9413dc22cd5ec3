import { accessSync, constants, readdirSync } from 'node:fs';
import { createServer } from 'node:net';
import { delimiter, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The command line, as it was built. */
export const TASKWIRE = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));

/** Debian keeps the server programs of each version here, outside of PATH. */
const POSTGRES_HOME = '/usr/lib/postgresql';

/** @returns the full path of a program in PATH (or of Debian's newest Postgres), undefined when there is none */
export function findProgram(name: string): string | undefined {
  const folders = (process.env['PATH'] ?? '').split(delimiter).filter((folder) => folder !== '');
  return [...folders, ...postgresFolders()]
    .map((folder) => join(folder, name))
    .find((path) => {
      try {
        accessSync(path, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

function postgresFolders(): string[] {
  try {
    const versions = readdirSync(POSTGRES_HOME).sort((a, b) => Number(b) - Number(a));
    return versions.map((version) => join(POSTGRES_HOME, version, 'bin'));
  } catch {
    return [];
  }
}

/** Those of `names` that this machine does not have. */
export function missingPrograms(names: readonly string[]): string[] {
  return names.filter((name) => findProgram(name) === undefined);
}

/**
 * `describe` for a suite that starts servers. Where a program is missing its tests are pending and the title says why;
 * with CI=true a missing program is a failure, so that a green run means that everything ran.
 */
export function describeWith(programs: readonly string[], title: string, body: (this: Mocha.Suite) => void): void {
  const missing = missingPrograms(programs);
  if (missing.length === 0) {
    describe(title, body);
    return;
  }
  const reason = `${missing.join(' and ')} not found in PATH`;
  if (process.env['CI'] === 'true') {
    describe(title, () => {
      it('finds its programs', () => {
        throw new Error(reason);
      });
    });
  } else {
    describe.skip(`${title} [not run: ${reason}]`, body);
  }
}

/** Where ports begin that the system gives to outgoing connections, on Linux and elsewhere. */
const FIRST_OUTGOING_PORT = 32_768;
const FIRST_PORT = 20_000;

/**
 * A port of 127.0.0.1 that nobody listens on at this moment, and that no outgoing connection takes. So it is still free
 * for who needs seconds to start, or ends and listens there again, while other tests open many connections.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = FIRST_PORT + Math.floor(Math.random() * (FIRST_OUTGOING_PORT - FIRST_PORT));
    if (await isFree(port)) {
      return port;
    }
  }
}

/** @returns the first of some ports in a row that are free as `freePort` says */
export async function freePorts(count: number): Promise<number> {
  for (;;) {
    const first = await freePort();
    const others = Array.from({ length: count - 1 }, (_, place) => isFree(first + 1 + place));
    if ((await Promise.all(others)).every(Boolean)) {
      return first;
    }
  }
}

/** Whether nobody listens on a port of 127.0.0.1. */
function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => {
      server.close(() => resolve(true));
    });
  });
}
