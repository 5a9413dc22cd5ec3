import { type ChildProcess, execFile, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect } from 'chai';
import { eventually } from './eventually.js';
import { findProgram, freePort } from './programs.js';

const DEPLOY = fileURLToPath(new URL('../../../deploy/', import.meta.url));

export interface ProxyOptions {
  /** Ports of the two instances on 127.0.0.1, or names and ports. */
  readonly instances: ReadonlyArray<number | string>;
  /** Port of a DNS server on 127.0.0.1 that knows their names. */
  readonly nameServer?: number;
  /** Its own port of 127.0.0.1; a free one when absent. */
  readonly port?: number;
}

/** A proxy as deploy/ configures it, on a free port of 127.0.0.1. */
export interface ReverseProxy {
  readonly url: string;
  /** Everything that it has logged. */
  log(): string;
  /** Makes it read its configuration again. Resolves when a new process of it serves. */
  reload(): Promise<void>;
  stop(): Promise<void>;
}

export interface ProxyKind {
  readonly program: string;
  /** Whether this version of it looks names up again. */
  readonly resolves: boolean;
  /** Whether it gives a write to the other instance when one could not be reached. */
  readonly passesWrites: boolean;
  start(options: ProxyOptions): Promise<ReverseProxy>;
}

const addressOf = (instance: number | string): string =>
  typeof instance === 'number' ? `127.0.0.1:${instance}` : instance;

function instancesIn(config: string, { instances }: ProxyOptions): string {
  return config
    .replaceAll(/(?<!\w)taskwire-1:9002/g, addressOf(instances[0]!))
    .replaceAll(/(?<!\w)taskwire-2:9002/g, addressOf(instances[1]!));
}

async function stopped(child: ChildProcess, dir: string, signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
  if (child.exitCode === null && child.signalCode === null) {
    const ended = once(child, 'exit');
    child.kill(signal);
    await ended;
  }
  rmSync(dir, { recursive: true, force: true });
}

function nginxResolves(): boolean {
  const said = spawnSync(findProgram('nginx') ?? 'nginx', ['-v'], { encoding: 'utf8' }).stderr ?? '';
  const [major = 0, minor = 0, patch = 0] = /(\d+)\.(\d+)\.(\d+)/.exec(said)?.slice(1).map(Number) ?? [];
  return major * 1e6 + minor * 1e3 + patch >= 1_027_003;
}

export const NGINX: ProxyKind = {
  program: 'nginx',
  resolves: nginxResolves(),
  passesWrites: true,
  async start(options) {
    const dir = mkdtempSync(join(tmpdir(), 'taskwire-nginx-'));
    const port = options.port ?? (await freePort());
    let site = instancesIn(readFileSync(join(DEPLOY, 'nginx/taskwire.conf'), 'utf8'), options)
      .replace('listen 80;', `listen 127.0.0.1:${port};`)
      .replace('/var/log/nginx/access.log', join(dir, 'access.log'))
      .replace('/var/log/nginx/error.log', join(dir, 'error.log'));
    site =
      options.nameServer === undefined
        ? site.replace(/^resolver .*\n/m, '').replaceAll(' resolve ', ' ')
        : site.replace('resolver 127.0.0.11 ', `resolver 127.0.0.1:${options.nameServer} `);
    return runNginx(dir, port, site);
  },
};

/**
 * nginx as somebody sets it up who knows `proxy_pass` and nothing else: it tells nobody that it is there.
 * @param options further lines for its location
 */
export async function startBareNginx(instance: number, options: readonly string[] = []): Promise<ReverseProxy> {
  const dir = mkdtempSync(join(tmpdir(), 'taskwire-nginx-'));
  const port = await freePort();
  const lines = [`proxy_pass http://127.0.0.1:${instance};`, ...options];
  const site = `access_log ${dir}/access.log;\nserver { listen 127.0.0.1:${port}; location / { ${lines.join(' ')} } }\n`;
  return runNginx(dir, port, site);
}

async function runNginx(dir: string, port: number, site: string): Promise<ReverseProxy> {
  const paths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${dir}/${name};`);
  const config = join(dir, 'nginx.conf');
  writeFileSync(
    config,
    `daemon off;\nworker_processes 1;\npid ${dir}/pid;\nerror_log ${dir}/error.log;\nevents { worker_connections 4096; }\nhttp {\n${paths.join('\n')}\n${site}}\n`,
  );
  const child = spawn(findProgram('nginx')!, ['-p', dir, '-e', join(dir, 'error.log'), '-c', config], {
    stdio: 'inherit',
  });
  await eventually(() => {
    expect(child.exitCode).to.equal(null);
    expect(existsSync(join(dir, 'pid'))).to.equal(true);
  });
  const workers = (): string => readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').trim();
  return {
    url: `http://127.0.0.1:${port}`,
    log: () => ['access.log', 'error.log'].map((name) => readFileSync(join(dir, name), 'utf8')).join(''),
    async reload() {
      const before = workers();
      child.kill('SIGHUP');
      await eventually(() => expect(workers()).not.to.equal(before));
    },
    // In order, so that its worker ends as well.
    stop: () => stopped(child, dir, 'SIGTERM'),
  };
}

export const HAPROXY: ProxyKind = {
  program: 'haproxy',
  resolves: true,
  passesWrites: true,
  async start(options) {
    const dir = mkdtempSync(join(tmpdir(), 'taskwire-haproxy-'));
    const port = options.port ?? (await freePort());
    const config = join(dir, 'haproxy.cfg');
    const text = instancesIn(readFileSync(join(DEPLOY, 'haproxy/haproxy.cfg'), 'utf8'), options)
      .replace('bind :80', `bind 127.0.0.1:${port}`)
      .replace('127.0.0.11:53', `127.0.0.1:${options.nameServer ?? 53}`);
    writeFileSync(config, text);
    // A master and a worker, as its package runs it.
    const child = spawn(findProgram('haproxy')!, ['-W', '-f', config], { stdio: ['ignore', 'pipe', 'pipe'] });
    const log = join(dir, 'log');
    writeFileSync(log, '');
    let loaded = 0;
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (said: string) => {
        appendFileSync(log, said);
        loaded += said.split('Loading success').length - 1;
      });
    }
    await eventually(() => {
      expect(child.exitCode, readFileSync(log, 'utf8')).to.equal(null);
      expect(loaded, readFileSync(log, 'utf8')).to.equal(1);
    });
    await listens(port);
    return {
      url: `http://127.0.0.1:${port}`,
      log: () => readFileSync(log, 'utf8'),
      async reload() {
        const before = loaded;
        // It executes itself after each load, and ignores signals until it has begun anew.
        await eventually(() => expect(catches(child.pid!, constants.signals.SIGUSR2)).to.equal(true));
        child.kill('SIGUSR2');
        await eventually(() => expect(loaded).to.equal(before + 1));
      },
      stop: () => stopped(child, dir, 'SIGTERM'),
    };
  },
};

export const CADDY: ProxyKind = {
  program: 'caddy',
  resolves: true,
  passesWrites: false,
  async start(options) {
    const dir = mkdtempSync(join(tmpdir(), 'taskwire-caddy-'));
    const port = options.port ?? (await freePort());
    const config = join(dir, 'Caddyfile');
    const resolvers = options.nameServer === undefined ? '' : `resolvers udp/127.0.0.1:${options.nameServer}\n`;
    const text = instancesIn(readFileSync(join(DEPLOY, 'caddy/Caddyfile'), 'utf8'), options)
      .replaceAll('transport http {\n', `transport http {\n${resolvers}`)
      .replace('\n:80 {', `\nhttp://:${port} {\nbind 127.0.0.1`);
    const admin = `127.0.0.1:${await freePort()}`;
    writeFileSync(config, `{\nadmin ${admin}\n}\n${text}`);
    const program = findProgram('caddy')!;
    const env = { PATH: process.env['PATH'], HOME: dir };
    const child = spawn(program, ['run', '--config', config, '--adapter', 'caddyfile'], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env,
    });
    const log = join(dir, 'log');
    writeFileSync(log, '');
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (said: Buffer) => appendFileSync(log, said));
    }
    await listens(port, () => expect(child.exitCode, readFileSync(log, 'utf8')).to.equal(null));
    return {
      url: `http://127.0.0.1:${port}`,
      log: () => readFileSync(log, 'utf8'),
      async reload() {
        const order = ['reload', '--force', '--config', config, '--adapter', 'caddyfile', '--address', admin];
        const loads = (): number => readFileSync(log, 'utf8').split('load complete').length;
        const before = loads();
        // It may close the connection by which it is told before it has answered.
        await eventually(() =>
          promisify(execFile)(program, order, { env }).catch((error) => {
            expect(loads(), `${error}\n${readFileSync(log, 'utf8').slice(-5_000)}`).to.be.greaterThan(before);
          }),
        );
      },
      stop: () => stopped(child, dir),
    };
  },
};

export const PROXIES: readonly ProxyKind[] = [NGINX, HAPROXY, CADDY];

/** Whether a process has a handler for a signal. */
function catches(pid: number, signal: number): boolean {
  const caught = /^SigCgt:\s+(\w+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1];
  return (BigInt(`0x${caught}`) & (1n << BigInt(signal - 1))) !== 0n;
}

async function listens(port: number, runs = (): void => {}): Promise<void> {
  await eventually(async () => {
    runs();
    const socket = connect(port, '127.0.0.1');
    await once(socket, 'connect');
    socket.destroy();
  });
}
