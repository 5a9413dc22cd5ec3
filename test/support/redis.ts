import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { eventually } from './eventually.js';
import { findProgram, freePort } from './programs.js';

/** The programs that `startRedis` needs, for `describeWith`. */
export const REDIS_PROGRAMS: readonly string[] = ['redis-server'];

const ATTEMPTS = 3;
const START_MS = 10_000;

/** What a server of a test may be given beside its port. */
export interface RedisOptions {
  readonly port?: number;
  /** Further options of the program. */
  readonly args?: readonly string[];
  /** A program that speaks Redis' protocol and takes its options. */
  readonly program?: string;
  /** Lines of a configuration file, for what must have one. */
  readonly config?: readonly string[];
}

/** A Redis server of the test's own: a free port of 127.0.0.1, nothing kept on disk. */
export class RedisServer {
  readonly url: string;
  /** Its folder, for sockets and certificates. */
  readonly dir = mkdtempSync(join(tmpdir(), 'taskwire-redis-'));
  private child: ChildProcess | undefined;
  private readonly abandon = (): void => {
    this.child?.kill('SIGKILL');
  };

  constructor(
    readonly port: number,
    private readonly options: RedisOptions = {},
  ) {
    this.url = `redis://127.0.0.1:${port}`;
    process.once('exit', this.abandon);
    if (options.config !== undefined) {
      writeFileSync(this.configFile, options.config.join('\n'));
    }
  }

  private get configFile(): string {
    return join(this.dir, 'redis.conf');
  }

  /** Of the process; undefined while there is none. */
  get pid(): number | undefined {
    return this.child?.pid;
  }

  /** Starts the process; resolves when it answers. */
  async launch(): Promise<void> {
    const { program: name = 'redis-server', args = [], config } = this.options;
    const program = findProgram(name);
    if (program === undefined) {
      throw new Error(`${name} not found in PATH`);
    }
    const options = ['--port', String(this.port), '--bind', '127.0.0.1', '--dir', this.dir];
    const all =
      config === undefined
        ? [...options, '--save', '', '--appendonly', 'no', ...args]
        : [this.configFile, ...options, ...args];
    const child = spawn(program, all, { stdio: 'ignore' });
    this.child = child;
    let ended = false;
    child.once('exit', () => {
      ended = true;
      if (this.child === child) {
        this.child = undefined;
      }
    });
    await eventually(() => (ended ? undefined : this.ping()), { timeoutMs: START_MS });
    if (ended) {
      throw new Error(`${name} did not start on port ${this.port}`);
    }
  }

  /** Kills it (-9); resolves when it is gone. */
  async kill(): Promise<void> {
    const { child } = this;
    if (child !== undefined) {
      const gone = new Promise((resolve) => child.once('exit', resolve));
      child.kill('SIGKILL');
      await gone;
    }
  }

  /** Kills it and starts it again, empty, on the same port. */
  async restart(): Promise<void> {
    await this.kill();
    await this.launch();
  }

  /** Stops it in its tracks; its sockets stay open. */
  pause(): void {
    this.child?.kill('SIGSTOP');
  }

  resume(): void {
    this.child?.kill('SIGCONT');
  }

  async stop(): Promise<void> {
    await this.kill();
    process.off('exit', this.abandon);
    rmSync(this.dir, { recursive: true, force: true });
  }

  private ping(): Promise<void> {
    return new Promise((resolve, reject) => {
      const socket = connect(this.port, '127.0.0.1', () => socket.write('PING\r\n'));
      socket.once('data', (text) => {
        socket.destroy();
        /^(?:\+PONG|-NOAUTH)/.test(String(text)) ? resolve() : reject(new Error(String(text)));
      });
      socket.once('error', reject);
      socket.once('close', () => reject(new Error('closed')));
    });
  }
}

/** Starts a Redis server. It ends with this process at the latest. */
export async function startRedis(options: RedisOptions = {}): Promise<RedisServer> {
  for (let attempt = 1; ; attempt += 1) {
    const server = new RedisServer(options.port ?? (await freePort()), options);
    try {
      await server.launch();
      return server;
    } catch (error) {
      await server.stop();
      // Somebody else may have taken the port meanwhile.
      if (options.port !== undefined || attempt === ATTEMPTS) {
        throw error;
      }
    }
  }
}
