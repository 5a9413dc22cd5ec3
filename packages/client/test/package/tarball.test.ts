import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { checkPackage, createPackageFromTarballData } from '@arethetypeswrong/core';
import { expect } from 'chai';
import { publint } from 'publint';
import { formatMessage } from 'publint/utils';
import { createLogger, build as viteBuild } from 'vite';

const HOME = fileURLToPath(new URL('../../', import.meta.url));
const MODULES = fileURLToPath(new URL('../../../../node_modules/', import.meta.url));
const require = createRequire(import.meta.url);

/** A program that uses every entry, in a project of its own. */
const PROGRAM = `
import { createTaskwire, websocket, type RoomSnapshot, type Taskwire } from '@taskwire/client';
import { ERRORS, isTaskEvent, type ServerMessage } from '@taskwire/client/protocol';
import { socketio } from '@taskwire/client/socketio';
import { sse } from '@taskwire/client/sse';

const tw: Taskwire = createTaskwire({ url: 'http://localhost:9002', token: async () => 'x', transport: websocket() });
const snapshot: RoomSnapshot = tw.job(123n).getSnapshot();
const status: 'loading' | 'live' | 'stale' | 'error' = snapshot.status;

export function statusOf(message: ServerMessage): string | undefined {
  if (message.type === 'TASK_STATUS_CHANGED') {
    return message.data.changes.new_status;
  }
  return isTaskEvent(message) ? message.data.changes.task_status : undefined;
}

export async function run(): Promise<void> {
  const task = await tw.task(7).until((row) => row.task_status === 'completed');
  const fee: number | null = task.task_opx_cost;
  for await (const item of tw.user('alice').events()) {
    if (item.type === 'RESYNC') {
      item.tasks.length satisfies number;
    } else if (item.type === 'TASK_FEE_UPDATED') {
      item.data.changes.old_fee satisfies number | null;
    }
  }
  void [fee, status, socketio, sse, ERRORS.NOT_FOUND.status satisfies 404];
}
`;

describe('the tarball of the client', function () {
  this.timeout(120_000);
  let dir: string;
  let tarball: string;
  let installed: string;

  before(() => {
    dir = mkdtempSync(join(tmpdir(), 'taskwire-client-'));
    const out = execFileSync('npm', ['pack', '--ignore-scripts', '--json', '--pack-destination', dir], { cwd: HOME });
    // npm 11 answers a list, others an object by name.
    const answer = JSON.parse(String(out)) as Array<{ filename: string }> | Record<string, { filename: string }>;
    tarball = join(dir, Object.values(answer)[0]!.filename);
    installed = join(dir, 'app', 'node_modules', '@taskwire', 'client');
    mkdirSync(installed, { recursive: true });
    execFileSync('tar', ['-xzf', tarball, '-C', installed, '--strip-components=1']);
  });

  after(() => {
    rmSync(dir, { recursive: true, force: true });
  });

  it('pleases publint', async () => {
    const { messages, pkg } = await publint({ pkgDir: installed, strict: true });
    expect(messages.map((message) => formatMessage(message, pkg))).to.deep.equal([]);
  });

  it('has types that are right for each way to import it', async () => {
    const result = await checkPackage(createPackageFromTarballData(readFileSync(tarball)));
    expect(result.types).not.to.equal(false);
    // Entries under a path are not for the resolution of before Node.js 12.
    const problems = 'problems' in result ? result.problems : [];
    const serious = problems.filter((problem) => !('resolutionKind' in problem && problem.resolutionKind === 'node10'));
    expect(serious).to.deep.equal([]);
  });

  it('has neither tests nor sources', () => {
    const files = execFileSync('tar', ['-tzf', tarball], { encoding: 'utf8' }).trim().split('\n');
    expect(
      files.filter((file) => !/^package\/(dist\/[\w-]+\.(c?js|d\.c?ts)|package\.json|README\.md|LICENSE)$/.test(file)),
    ).to.deep.equal([]);
  });

  for (const [title, options] of [
    ['a bundler', { module: 'ESNext', moduleResolution: 'bundler' }],
    ['Node.js', { module: 'NodeNext', moduleResolution: 'NodeNext' }],
  ] as const) {
    it(`compiles in an empty project for ${title}, its types checked too`, () => {
      const app = join(dir, 'app');
      writeFileSync(join(app, 'package.json'), JSON.stringify({ type: 'module' }));
      writeFileSync(join(app, 'main.ts'), PROGRAM);
      writeFileSync(join(app, 'old.cts'), `import { createTaskwire } from '@taskwire/client';\nvoid createTaskwire;\n`);
      const compilerOptions = {
        ...options,
        strict: true,
        skipLibCheck: false,
        noEmit: true,
        target: 'ES2022',
        lib: ['ES2022', 'DOM', 'DOM.Iterable'],
        types: [],
      };
      writeFileSync(join(app, 'tsconfig.json'), JSON.stringify({ compilerOptions, include: ['*.ts', '*.cts'] }));
      const tsc = join(dirname(require.resolve('typescript/package.json')), 'bin', 'tsc');
      let said = '';
      try {
        execFileSync(process.execPath, [tsc, '-p', app], { encoding: 'utf8' });
      } catch (error) {
        said = String((error as { stdout: string }).stdout);
      }
      expect(said).to.equal('');
    });
  }

  it('runs by import and by require', () => {
    const app = join(dir, 'app');
    writeFileSync(
      join(app, 'run.mjs'),
      `import { createTaskwire } from '@taskwire/client'; import '@taskwire/client/socketio';
       console.log(createTaskwire({ url: 'http://localhost:1' }).connection.state);`,
    );
    writeFileSync(
      join(app, 'run.cjs'),
      `const { createTaskwire } = require('@taskwire/client'); require('@taskwire/client/protocol');
       console.log(createTaskwire({ url: 'http://localhost:1' }).connection.state);`,
    );
    for (const name of ['run.mjs', 'run.cjs']) {
      expect(execFileSync(process.execPath, [join(app, name)], { encoding: 'utf8' })).to.equal('idle\n');
    }
  });

  /** Builds a page with Vite. @returns its scripts, and what Vite has to say about them */
  const bundle = async (page: string): Promise<{ code: string; warnings: string[] }> => {
    const app = join(dir, 'app');
    writeFileSync(join(app, 'index.html'), '<div id="root"></div><script type="module" src="/page.ts"></script>');
    writeFileSync(join(app, 'page.ts'), page);
    for (const name of ['react', 'react-dom', 'scheduler']) {
      if (!existsSync(join(app, 'node_modules', name))) {
        symlinkSync(join(MODULES, name), join(app, 'node_modules', name));
      }
    }
    const warnings: string[] = [];
    const warn = (text: string): void => {
      // Said of every package with 'use client'. @vitejs/plugin-react, which a page with React has, keeps it back.
      if (!text.includes('MODULE_LEVEL_DIRECTIVE')) {
        warnings.push(text);
      }
    };
    const result = await viteBuild({
      root: app,
      configFile: false,
      logLevel: 'warn',
      customLogger: { ...createLogger('silent'), warn, warnOnce: warn },
      build: { write: false, target: 'es2022', modulePreload: { polyfill: false } },
    });
    const outputs = [result].flat().flatMap((one) => ('output' in one ? one.output : []));
    const code = outputs.map((one) => (one.type === 'chunk' ? one.code : '')).join('');
    return { code, warnings };
  };

  it('goes into a bundle of Vite as small as it is, and without a warning', async () => {
    const { code, warnings } = await bundle(
      `import { createTaskwire } from '@taskwire/client';
       Object.assign(globalThis, { tw: createTaskwire({ url: 'http://localhost:1' }) });`,
    );
    expect(warnings).to.deep.equal([]);
    expect(gzipSync(code, { level: 9 }).length).to.be.within(3_000, 6_000);
    const page = await bundle(
      `import { createElement } from 'react';
       import { createRoot } from 'react-dom/client';
       import { useConnection } from '@taskwire/client/react';
       const Page = () => createElement('p', {}, useConnection().state);
       createRoot(document.body).render(createElement(Page));`,
    );
    expect(page.warnings).to.deep.equal([]);
    expect(page.code).to.contain('TaskwireProvider');
  });
});
