import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { eventually } from './eventually.js';
import { findProgram, freePort } from './programs.js';

const SITE = fileURLToPath(new URL('../../../deploy/nginx/taskwire.conf', import.meta.url));

/** nginx with the site of the repository, on a free port of 127.0.0.1. */
export class Nginx {
  private constructor(
    readonly url: string,
    readonly dir: string,
    private readonly child: ChildProcess,
  ) {}

  /** @param upstreams ports of the two instances */
  static async start(upstreams: readonly number[]): Promise<Nginx> {
    const dir = mkdtempSync(join(tmpdir(), 'taskwire-nginx-'));
    const port = await freePort();
    const site = readFileSync(SITE, 'utf8')
      .replaceAll('taskwire-1:9002', `127.0.0.1:${upstreams[0]}`)
      .replaceAll('taskwire-2:9002', `127.0.0.1:${upstreams[1]}`)
      .replace('listen 80;', `listen 127.0.0.1:${port};`)
      .replace('/var/log/nginx/access.log', join(dir, 'access.log'))
      .replace('/var/log/nginx/error.log', join(dir, 'error.log'));
    const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map(
      (name) => `${name}_temp_path ${dir}/${name};`,
    );
    const config = join(dir, 'nginx.conf');
    writeFileSync(
      config,
      `daemon off;\nworker_processes 1;\npid ${dir}/pid;\nerror_log ${dir}/error.log;\nevents {}\nhttp {\n${paths.join('\n')}\n${site}}\n`,
    );
    const child = spawn(findProgram('nginx')!, ['-p', dir, '-e', join(dir, 'error.log'), '-c', config], {
      stdio: 'inherit',
    });
    const nginx = new Nginx(`http://127.0.0.1:${port}`, dir, child);
    await eventually(() => {
      expect(child.exitCode).to.equal(null);
      expect(existsSync(join(dir, 'pid'))).to.equal(true);
    });
    return nginx;
  }

  async stop(): Promise<void> {
    const ended = once(this.child, 'exit');
    this.child.kill('SIGTERM');
    await ended;
    rmSync(this.dir, { recursive: true, force: true });
  }
}
