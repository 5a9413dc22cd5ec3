import { execFile, execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect } from 'chai';
import { SCHEDULER } from '../support/scheduler.js';
import { embeddedForTest } from '../support/task-server.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));
const HOME = join(ROOT, 'packages/writer');
const MODULES = join(ROOT, 'node_modules');
const require = createRequire(import.meta.url);

interface Manifest {
  readonly dependencies?: Readonly<Record<string, string>>;
}
const manifestOf = (folder: string): Manifest =>
  JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as Manifest;

/** A program that uses the types. */
const PROGRAM = `
import { connectDatabase, connectTransport, Publisher, TaskRepository, TaskwireError, type TaskWrite } from '@taskwire/writer';

export async function write(url: string): Promise<TaskWrite> {
  const db = connectDatabase({ url, pool: 1 });
  const transport = await connectTransport({ url: 'redis://127.0.0.1:1' });
  const tasks = new TaskRepository(db, new Publisher(transport));
  try {
    const { task_id } = await tasks.createTaskData({ job_id: 1n, task_definition_id: 7 });
    return await tasks.updateTaskFee(task_id, 2);
  } catch (error) {
    if (error instanceof TaskwireError && error.code === 'NOT_FOUND') {
      error.message satisfies string;
    }
    throw error;
  }
}
`;

describe('the package for those who only write', function () {
  this.timeout(60_000);
  let dir: string;
  let app: string;

  /** Copies a package with what it needs, as npm would install it in an empty project. */
  const install = (name: string, seen: Set<string>): void => {
    if (!seen.has(name)) {
      seen.add(name);
      cpSync(join(MODULES, name), join(app, 'node_modules', name), { recursive: true, dereference: true });
      for (const needed of Object.keys(manifestOf(join(MODULES, name)).dependencies ?? {})) {
        install(needed, seen);
      }
    }
  };

  before(() => {
    dir = mkdtempSync(join(tmpdir(), 'taskwire-writer-'));
    app = join(dir, 'app');
    execFileSync('npm', ['pack', '--ignore-scripts', '--silent', '--pack-destination', dir], { cwd: HOME });
    const home = join(app, 'node_modules/@taskwire/writer');
    mkdirSync(home, { recursive: true });
    execFileSync('tar', [
      '-xzf',
      join(dir, readdirSync(dir).find((name) => name.endsWith('.tgz'))!),
      '-C',
      home,
      '--strip-components=1',
    ]);
    const installed = new Set<string>();
    for (const name of Object.keys(manifestOf(home).dependencies ?? {})) {
      install(name, installed);
    }
    writeFileSync(join(app, 'package.json'), '{ "type": "module" }');
  });

  after(() => {
    rmSync(dir, { recursive: true, force: true });
  });

  it('needs what the server needs of the same, and nothing of what serves', () => {
    const own = manifestOf(HOME).dependencies!;
    const server = manifestOf(ROOT).dependencies!;
    expect(own).to.deep.equal(Object.fromEntries(Object.keys(own).map((name) => [name, server[name]])));
    const sources = readdirSync(join(HOME, 'dist'), { recursive: true, encoding: 'utf8' }).filter((name) =>
      /\.(js|d\.ts)$/.test(name),
    );
    const imported = sources.flatMap((name) =>
      [
        ...readFileSync(join(HOME, 'dist', name), 'utf8').matchAll(/(?:from|import)\s*\(?\s*['"]([^'".][^'"]*)['"]/g),
      ].map(([, target]) => target!),
    );
    const packages = imported
      .filter((name) => !name.startsWith('node:'))
      // Of a file of a package, the package.
      .map((name) => /^(?:@[^/]+\/)?[^/]+/.exec(name)![0]);
    expect([...new Set(packages)].sort()).to.deep.equal(Object.keys(own).sort());
    for (const name of ['@electric-sql', 'express', 'socket.io', 'ws']) {
      expect(readdirSync(join(app, 'node_modules')), name).not.to.include(name);
    }
  });

  it('is installed in less than 30 MB', () => {
    const files = readdirSync(join(app, 'node_modules'), { recursive: true, withFileTypes: true }).filter((entry) =>
      entry.isFile(),
    );
    const bytes = files.reduce((sum, { parentPath, name }) => sum + statSync(join(parentPath, name)).size, 0);
    expect(bytes).to.be.below(30_000_000);
  });

  it('writes what the workers find in the log', async () => {
    const database = await embeddedForTest();
    try {
      writeFileSync(join(app, 'scheduler.mjs'), SCHEDULER.replace("'taskwire'", "'@taskwire/writer'"));
      const { stdout } = await promisify(execFile)(process.execPath, [join(app, 'scheduler.mjs')], {
        env: { PATH: process.env['PATH'], DATABASE: database.url, JOB: '9'.repeat(78) },
      });
      expect(JSON.parse(stdout)).to.include({ job_id: '9'.repeat(78), user_id: 'alice', seq: 2 });
    } finally {
      await database.stop();
    }
  });

  it('has types that are right in an empty project, those of what it needs too', () => {
    install('@types/node', new Set());
    writeFileSync(join(app, 'main.ts'), PROGRAM);
    const compilerOptions = {
      module: 'NodeNext',
      moduleResolution: 'NodeNext',
      target: 'ES2022',
      strict: true,
      skipLibCheck: false,
      noEmit: true,
      types: ['node'],
    };
    writeFileSync(join(app, 'tsconfig.json'), JSON.stringify({ compilerOptions, include: ['main.ts'] }));
    const tsc = join(dirname(require.resolve('typescript/package.json')), 'bin', 'tsc');
    let said = '';
    try {
      execFileSync(process.execPath, [tsc, '-p', app], { encoding: 'utf8' });
    } catch (error) {
      said = String((error as { stdout: string }).stdout);
    }
    expect(said).to.equal('');
  });
});
