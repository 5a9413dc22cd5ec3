import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { END_WITH_PARENT } from '../../src/cluster/parent.js';
import { eventually } from '../support/eventually.js';
import { freePort } from '../support/programs.js';

const ENTRY = fileURLToPath(new URL('../../cluster.js', import.meta.url));
const CLI = fileURLToPath(new URL('../../src/cli/main.js', import.meta.url));

const isAlive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
};

describe('who started the service, and who reads what it says', function () {
  this.timeout(120_000);
  let dir: string;

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'taskwire-test-'));
  });
  afterEach(() => rmSync(dir, { recursive: true, force: true }));

  const environment = (port: number, more: Record<string, string> = {}): NodeJS.ProcessEnv => ({
    PATH: process.env['PATH'],
    NODE_ENV: 'test',
    HOST: '127.0.0.1',
    PORT: String(port),
    WORKERS: '2',
    DATA_DIR: join(dir, 'data'),
    DRAIN_SECONDS: '0',
    ...more,
  });

  const healthy = (port: number): Promise<unknown> =>
    eventually(async () => expect((await fetch(`http://127.0.0.1:${port}/api/ws/health`)).status).to.equal(200), {
      timeoutMs: 60_000,
    });

  for (const workers of [1, 2]) {
    it(`readers of standard output and error may leave: the service goes on (WORKERS=${workers})`, async () => {
      const port = await freePort();
      // Each request is a line.
      const env = environment(port, { LOG_LEVEL: 'debug', WORKERS: String(workers) });
      const child = spawn(process.execPath, [ENTRY], { env, stdio: ['ignore', 'pipe', 'pipe'] });
      const exited = once(child, 'exit');
      try {
        child.stdout.destroy();
        child.stderr.destroy();
        await healthy(port);
        for (let count = 0; count < 20; count += 1) {
          await healthy(port);
        }
        expect(child.exitCode).to.equal(null);
        child.kill('SIGTERM');
        expect((await exited)[0]).to.equal(0);
      } finally {
        child.kill('SIGKILL');
      }
    });
  }

  it('readers of a command may leave: it ends as if they had stayed', async () => {
    const child = spawn(process.execPath, [CLI, 'keys', 'create', '--owner', 'ada'], {
      env: environment(1),
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    child.stdout.destroy();
    let said = '';
    child.stderr.setEncoding('utf8').on('data', (text) => {
      said += text;
    });
    expect((await once(child, 'exit'))[0], said).to.equal(0);
    // The line of the log that every change of a key has, and no complaint.
    expect(said).to.match(/^\S+ info +key created .*\n$/);
  });

  for (const command of ['keys create --owner ada', 'keys list --json', '--help', 'check']) {
    it(`what a command prints may find no room: it says so, and ends with 1 (${command})`, async function () {
      if (!existsSync('/dev/full')) {
        this.skip();
      }
      const full = openSync('/dev/full', 'w');
      const child = spawn(process.execPath, [CLI, ...command.split(' ')], {
        env: environment(1),
        stdio: ['ignore', full, 'pipe'],
      });
      closeSync(full);
      let said = '';
      child.stderr!.setEncoding('utf8').on('data', (text) => {
        said += text;
      });
      expect((await once(child, 'close'))[0]).to.equal(1);
      expect(said).to.match(/What was to be printed is lost: ENOSPC: /);
    });
  }

  for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGKILL'] as const) {
    for (const workers of [1, 2]) {
      it(`whoever started it by npm start may be ended alone: the service ends too (${signal}, WORKERS=${workers})`, async () => {
        const port = await freePort();
        // What `npm start` is, without a build: npm, a shell that becomes the service, and the service.
        const { scripts } = JSON.parse(readFileSync(join(ENTRY, '../../package.json'), 'utf8'));
        const pidFile = join(dir, 'pid');
        const start = String(scripts.start).replace('dist/cluster.js', ENTRY);
        const noting = `import { writeFileSync } from 'node:fs'; import cluster from 'node:cluster'; cluster.isPrimary && writeFileSync(${JSON.stringify(pidFile)}, String(process.pid));`;
        writeFileSync(join(dir, 'note.mjs'), noting);
        writeFileSync(join(dir, 'package.json'), JSON.stringify({ name: 'a', version: '1.0.0', scripts: { start } }));
        const more = { WORKERS: String(workers), HOME: dir, NODE_OPTIONS: `--import=${join(dir, 'note.mjs')}` };
        const npm = spawn('npm', ['start', '--', '--more'], {
          cwd: dir,
          env: environment(port, more),
          stdio: 'ignore',
        });
        const exited = once(npm, 'exit');
        let pid: number | undefined;
        try {
          await healthy(port);
          // npm is a program of Node.js as well; the service wrote last.
          pid = Number(readFileSync(pidFile, 'utf8'));
          expect(pid).not.to.equal(npm.pid);
          npm.kill(signal);
          await exited;
          await eventually(() => expect(isAlive(pid!)).to.equal(false), { timeoutMs: 30_000 });
        } finally {
          npm.kill('SIGKILL');
          if (pid !== undefined && isAlive(pid)) {
            process.kill(pid, 'SIGKILL');
          }
        }
      });
    }
  }

  for (const [what, end] of [
    ['a terminal that is closed', (pid: number) => process.kill(-pid, 'SIGHUP')],
    ['whoever started npm run dev, ended alone,', (pid: number) => process.kill(pid, 'SIGKILL')],
  ] as const) {
    it(`${what} ends the service that npm run dev has started`, async () => {
      const { scripts } = JSON.parse(readFileSync(join(ENTRY, '../../package.json'), 'utf8'));
      const root = fileURLToPath(new URL('../../..', import.meta.url));
      // A program of its own to compile: the one that is tested here stays as it is.
      symlinkSync(join(root, 'node_modules'), join(dir, 'node_modules'));
      writeFileSync(join(dir, 'tsconfig.json'), '{ "files": ["a.ts"], "compilerOptions": { "outDir": "out" } }');
      writeFileSync(join(dir, 'a.ts'), 'export const a = 1;');
      writeFileSync(join(dir, 'package.json'), JSON.stringify({ name: 'a', version: '1.0.0', type: 'module' }));
      const dev = String(scripts.dev)
        .replace('.ci/watch.js', join(root, '.ci/watch.js'))
        .replace('dist/cluster.js', ENTRY);
      const port = await freePort();
      // What npm is: somebody who starts a shell for the script, and waits for it.
      const starter = `const { spawn } = require('node:child_process'); spawn('sh', ['-c', ${JSON.stringify(dev)}], { stdio: 'inherit' });`;
      const npm = spawn(process.execPath, ['-e', starter], {
        cwd: dir,
        env: environment(port, { HOME: dir, LOG_FORMAT: 'json' }),
        stdio: ['ignore', 'ignore', 'pipe'],
        detached: true,
      });
      let log = '';
      npm.stderr!.setEncoding('utf8').on('data', (text) => {
        log += text;
      });
      let pid: number | undefined;
      try {
        await healthy(port);
        pid = Number(/"message":"port opened","pid":(\d+)/.exec(log)![1]);
        end(npm.pid!);
        await eventually(() => expect(isAlive(pid!)).to.equal(false), { timeoutMs: 30_000 });
      } finally {
        for (const left of [-npm.pid!, ...(pid === undefined ? [] : [pid])]) {
          try {
            process.kill(left, 'SIGKILL');
          } catch {
            // It has ended.
          }
        }
      }
    });
  }

  it('whoever started it may be gone before it begins: the service goes on', async () => {
    const port = await freePort();
    const pidFile = join(dir, 'pid');
    // The shell ends at once, and leaves the service to whoever takes orphans; it begins after that.
    const begin = `while kill -0 $$ 2> /dev/null; do sleep 0.1; done; exec "$0" "$1" ${END_WITH_PARENT}`;
    const command = `(${begin}) & echo $! > "$2"`;
    const env = environment(port, { WORKERS: '1' });
    const shell = spawn('/bin/sh', ['-c', command, process.execPath, ENTRY, pidFile], { env, stdio: 'ignore' });
    await once(shell, 'exit');
    const pid = Number(readFileSync(pidFile, 'utf8'));
    try {
      await healthy(port);
      // Longer than it takes to look for the parent twice.
      await sleep(1_500);
      await healthy(port);
    } finally {
      process.kill(pid, 'SIGTERM');
      await eventually(() => expect(isAlive(pid)).to.equal(false), { timeoutMs: 30_000 });
    }
  });
});
