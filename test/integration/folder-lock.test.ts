import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, chownSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { makePrivate } from '../../src/embedded/private-files.js';
import { freePort, TASKWIRE } from '../support/programs.js';

const LOCK = new URL('../../src/embedded/folder-lock.js', import.meta.url).href;

/** Programs with a pid namespace, a mount namespace and a host name of their own: what a container has of what matters here. */
const CONTAINER = ['--pid', '--fork', '--mount-proc', '--uts', '--ipc', '--net', '--kill-child'];
const NO_CONTAINERS =
  spawnSync('unshare', [...CONTAINER, 'true']).status === 0 ? '' : ' [not run: unshare makes no namespaces here]';
const describeContainers = NO_CONTAINERS === '' ? describe : describe.skip;

/** Takes the folder, says so, and keeps it until its standard input ends. */
const HOLDER = `
import { hostname } from 'node:os';
const { lockFolder } = await import(process.argv[2]);
try {
  await lockFolder(process.argv[3]);
  process.stdout.write('held by ' + process.pid + '\\n');
  process.stdin.resume().once('end', () => process.exit(0));
} catch (error) {
  process.stdout.write(error.name + ' ' + error.message + '\\n');
}
`;

describe('the lock of a folder', function () {
  this.timeout(60_000);
  let base: string;
  let dir: string;
  let program: string;
  const children: ChildProcess[] = [];

  beforeEach(() => {
    base = mkdtempSync(join(tmpdir(), 'taskwire-lock-'));
    dir = join(base, 'data');
    mkdirSync(dir);
    program = join(base, 'holder.mjs');
    writeFileSync(program, HOLDER);
  });

  afterEach(async () => {
    for (const child of children.splice(0)) {
      if (child.exitCode === null && child.signalCode === null) {
        const exited = once(child, 'exit');
        child.kill('SIGKILL');
        await exited;
      }
    }
    rmSync(base, { recursive: true, force: true });
  });

  /** Starts somebody who wants the folder. @returns what it says */
  async function take(options: { container?: boolean; folder?: string } = {}): Promise<{
    child: ChildProcess;
    said: string;
  }> {
    const args = [process.execPath, program, LOCK, options.folder ?? dir];
    const [command, ...rest] = options.container ? ['unshare', ...CONTAINER, ...args] : args;
    const child = spawn(command!, rest, { stdio: ['pipe', 'pipe', 'inherit'] });
    children.push(child);
    const [said] = await once(child.stdout!.setEncoding('utf8'), 'data');
    return { child, said: String(said).trim() };
  }

  /** The same, when the one before may only just be dying: its namespace ends a moment after what started it. */
  const succeed = async (container: boolean) => {
    for (;;) {
      const taken = await take({ container });
      if (!taken.said.includes('is in use by process 1 of another')) {
        return taken;
      }
    }
  };

  async function kill(child: ChildProcess): Promise<void> {
    const exited = once(child, 'exit');
    child.kill('SIGKILL');
    await exited;
  }

  it('is released by the kernel when its holder is killed, and nothing stays behind', async () => {
    for (let count = 0; count < 3; count += 1) {
      const { child, said } = await take();
      expect(said).to.equal(`held by ${child.pid}`);
      expect((await take()).said).to.include(`FolderInUseError ${dir} is in use by process ${child.pid};`);
      await kill(child);
    }
    const { child } = await take();
    child.stdin!.end();
    await once(child, 'exit');
    expect((await take()).said).to.match(/^held by/);
    expect(readdirSync(join(dir, 'locks'))).to.have.length(1);
  });

  it('is kept by a process that is stopped', async () => {
    const { child } = await take();
    child.kill('SIGSTOP');
    expect((await take()).said).to.include('is in use by a process that does not answer');
  });

  it('goes to exactly one of many that want it at once, over what dead ones left', async () => {
    for (let count = 0; count < 3; count += 1) {
      await kill((await take()).child);
      const outcomes = await Promise.all(Array.from({ length: 8 }, () => take()));
      const winners = outcomes.filter(({ said }) => said.startsWith('held'));
      expect(winners).to.have.length(1);
      expect(outcomes.filter(({ said }) => said.startsWith('FolderInUseError'))).to.have.length(7);
      await kill(winners[0]!.child);
    }
  });

  it('works in a folder whose path is too long for sockets, by any of its paths', async function () {
    if (process.platform !== 'linux') {
      this.skip();
    }
    const deep = join(dir, 'deep'.repeat(40));
    mkdirSync(deep);
    const { child } = await take({ folder: deep });
    expect((await take({ folder: join(deep, '..', 'deep'.repeat(40)) })).said).to.include(`process ${child.pid}`);
    await kill(child);
    expect((await take({ folder: deep })).said).to.match(/^held/);
  });

  it('is refused to a user who does not own the files', function () {
    if (process.geteuid?.() !== 0) {
      this.skip();
    }
    chownSync(dir, 1234, 1234);
    expect(() => makePrivate(dir)).to.throw(/belongs to user 1234, and this process runs as user 0/);
    chmodSync(dir, 0o700);
  });

  describeContainers(`between containers${NO_CONTAINERS}`, () => {
    it('holds, and the successor of a killed process 1 starts', async () => {
      const first = await take({ container: true });
      expect(first.said).to.equal('held by 1');
      for (const container of [true, false]) {
        expect((await take({ container })).said).to.include('is in use by process 1 of another container (host ');
      }
      await kill(first.child);
      const second = await succeed(true);
      expect(second.said).to.equal('held by 1');
      await kill(second.child);
      const third = await succeed(false);
      expect(third.said).to.equal(`held by ${third.child.pid}`);
      expect((await take({ container: true })).said).to.include(
        `is in use by process ${third.child.pid} of another container`,
      );
    });

    it('lets commands of the host use the database of a container, and says what to do when they cannot', async () => {
      // The container sees the volume under another path.
      const mounted = join(base, 'mounted');
      mkdirSync(mounted);
      const service = spawn(
        'unshare',
        [
          ...CONTAINER,
          '--mount',
          'sh',
          '-c',
          'ip link set lo up; mount --bind "$1" "$2" && cd / && exec "$3" "$4" start',
          'sh',
          dir,
          mounted,
          process.execPath,
          TASKWIRE,
        ],
        {
          stdio: ['ignore', 'pipe', 'pipe'],
          env: {
            PATH: process.env['PATH'],
            DATA_DIR: mounted,
            WORKERS: '1',
            PORT: String(await freePort()),
            LOG_FORMAT: 'json',
          },
        },
      );
      children.push(service);
      let log = '';
      await new Promise<void>((resolve, reject) => {
        service.stderr!.setEncoding('utf8').on('data', (text: string) => {
          log += text;
          if (log.includes('"worker ready"')) {
            resolve();
          }
        });
        service.once('exit', () => reject(new Error(log)));
      });
      const command = (...args: string[]) =>
        spawnSync(process.execPath, [TASKWIRE, ...args], {
          encoding: 'utf8',
          env: { PATH: process.env['PATH'], DATA_DIR: dir },
        });
      const made = command('keys', 'create', '--owner', 'erin', '--json');
      expect(made.status, made.stderr).to.equal(0);
      expect(JSON.parse(made.stdout)).to.include({ owner: 'erin' });
      expect(command('keys', 'list').stdout).to.include('erin');
      rmSync(join(dir, 'run'), { recursive: true });
      const refused = command('keys', 'list');
      expect(refused.status).to.equal(1);
      expect(refused.stderr).to.include('is in use by process 1 of another container').and.include('docker exec');
    });
  });
});
