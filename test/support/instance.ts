import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { fillDataDir } from './data-dir.js';
import { eventually } from './eventually.js';
import { freePort } from './programs.js';

const ENTRY = fileURLToPath(new URL('../../cluster.js', import.meta.url));
const START_MS = 60_000;
const KEPT_LINES = 2_000;
/** What the primary says when a worker has ended without being told to. */
const CRASHES = ['worker ended unexpectedly', 'workers cannot start, giving up'];

export interface InstanceOptions {
  readonly workers?: number;
  /** A port to take again; otherwise a free one. */
  readonly port?: number;
  /** Variables beside those that every instance of a test has; undefined: unset. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** A module that is loaded into each process before anything else. */
  readonly preload?: string;
  /** Whose rights it has; this user's when absent. */
  readonly user?: { readonly uid: number; readonly gid: number } | undefined;
  /** Whether it makes its embedded database itself, as at its very first start. Otherwise it finds an empty one. */
  readonly fromNothing?: boolean;
}

interface LogLine {
  readonly message: string;
  readonly worker?: number;
  readonly [field: string]: unknown;
}

/** The real program, as processes of its own on a free port. */
export class Instance {
  readonly url: string;
  readonly log: LogLine[] = [];
  /** Lines about workers that ended and should not have: nobody killed them. */
  readonly crashes: LogLine[] = [];
  /** What it printed on standard output. */
  output = '';
  /** Workers that are ready. */
  readonly workers = new Set<number>();
  exitCode: number | null | undefined;
  private readonly child: ChildProcess;
  private readonly exited: Promise<void>;
  private readonly killed = new Set<number>();
  private rest = '';

  private constructor(
    readonly port: number,
    private readonly dataDir: string,
    options: InstanceOptions,
  ) {
    this.url = `http://127.0.0.1:${port}`;
    this.child = spawn(process.execPath, [ENTRY], {
      stdio: ['ignore', 'pipe', 'pipe'],
      ...options.user,
      env: {
        PATH: process.env['PATH'],
        NODE_ENV: 'test',
        HOST: '127.0.0.1',
        PORT: String(port),
        WORKERS: String(options.workers ?? 2),
        DATA_DIR: this.dataDir,
        LOG_FORMAT: 'json',
        LOG_LEVEL: 'info',
        MAX_CONNECTIONS_PER_IP: '1000000',
        STATS_ACCESS: 'local',
        DRAIN_SECONDS: '1',
        ...(options.preload === undefined ? {} : { NODE_OPTIONS: `--import=${options.preload}` }),
        ...options.env,
      },
    });
    this.child.stdout!.setEncoding('utf8').on('data', (text: string) => {
      this.output += text;
    });
    this.child.stderr!.setEncoding('utf8').on('data', (text: string) => this.hear(text));
    this.exited = new Promise((resolve) => {
      this.child.once('exit', (code) => {
        this.exitCode = code;
        rmSync(this.dataDir, { recursive: true, force: true });
        resolve();
      });
    });
    const abandon = (): void => {
      this.child.kill('SIGKILL');
    };
    process.once('exit', abandon);
    void this.exited.then(() => process.off('exit', abandon));
  }

  /** Starts an instance; it may not be ready yet. */
  static async launch(options: InstanceOptions = {}): Promise<Instance> {
    const dataDir = mkdtempSync(join(tmpdir(), 'taskwire-test-'));
    const { DATABASE_URL, DATA_DIR } = options.env ?? {};
    if (DATABASE_URL === undefined && DATA_DIR === undefined && options.fromNothing !== true) {
      await fillDataDir(dataDir);
    }
    return new Instance(options.port ?? (await freePort()), dataDir, options);
  }

  /** Starts an instance and waits until all of its workers are ready. */
  static async start(options: InstanceOptions = {}): Promise<Instance> {
    const instance = await Instance.launch(options);
    try {
      await instance.ready(options.workers ?? 2);
      return instance;
    } catch (error) {
      await instance.kill();
      throw new Error(`${(error as Error).message}\n${JSON.stringify(instance.log.slice(-10), undefined, 1)}`);
    }
  }

  get pid(): number {
    return this.child.pid!;
  }

  get ended(): boolean {
    return this.exitCode !== undefined;
  }

  /** Resolves when that many workers take connections. */
  async ready(workers: number): Promise<void> {
    await eventually(
      () => {
        if (!this.ended && this.workers.size < workers) {
          throw new Error(`${this.workers.size} of ${workers} workers are ready`);
        }
      },
      { timeoutMs: START_MS, intervalMs: 20 },
    );
    if (this.ended) {
      throw new Error(`the instance ended with ${this.exitCode}`);
    }
  }

  /** Sends a signal to the primary. */
  signal(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }

  /** Kills one of the workers that are ready (-9). @returns its process id */
  killWorker(index = 0): number | undefined {
    const pid = [...this.workers][index];
    if (pid !== undefined) {
      this.workers.delete(pid);
      this.killed.add(pid);
      process.kill(pid, 'SIGKILL');
    }
    return pid;
  }

  /** Kills the whole instance, all processes at once (-9). */
  async kill(): Promise<void> {
    const pids = [...this.workers];
    this.child.kill('SIGKILL');
    for (const pid of pids) {
      this.killed.add(pid);
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // It has ended by itself, as it should without its primary.
      }
    }
    await this.exited;
  }

  /** Ends it in order (SIGTERM). @returns the exit code */
  async stop(): Promise<number | null> {
    this.child.kill('SIGTERM');
    await this.exited;
    return this.exitCode ?? null;
  }

  /** Resolves with the exit code when it has ended by itself. */
  async end(): Promise<number | null> {
    await this.exited;
    return this.exitCode ?? null;
  }

  // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of every form
  async get(path: string, headers: Record<string, string> = {}): Promise<{ status: number; body: any }> {
    const response = await fetch(`${this.url}${path}`, { headers });
    const text = await response.text();
    return { status: response.status, body: text === '' ? undefined : JSON.parse(text) };
  }

  private hear(text: string): void {
    const lines = (this.rest + text).split('\n');
    this.rest = lines.pop()!;
    for (const line of lines) {
      this.note(line);
    }
  }

  private note(text: string): void {
    let line: LogLine;
    try {
      line = JSON.parse(text) as LogLine;
    } catch {
      line = { message: text };
    }
    if (this.log.push(line) > KEPT_LINES) {
      this.log.shift();
    }
    if (CRASHES.includes(line.message) && !this.killed.has(line.worker!)) {
      this.crashes.push(line);
    }
    if (line.message === 'worker ready') {
      this.workers.add(line.worker!);
    } else if (line.message.startsWith('worker ended')) {
      this.workers.delete(line.worker!);
    }
  }
}
