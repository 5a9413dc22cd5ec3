import { once } from 'node:events';
import { chmodSync, existsSync, mkdtempSync, rmSync } from 'node:fs';
import type { ListenOptions } from 'node:net';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import type { Logger } from '../base/logger.js';
import { claimsIn, lockFolder } from './folder-lock.js';
import { asUnusable, makeFolder, tryFolder, tryPlace } from './make-folder.js';
import { checkOwner, makePrivate } from './private-files.js';
import { socketFits } from './socket-folder.js';
import type { ThreadCommand, ThreadData, ThreadReady } from './thread.js';
import { beginFirstStart } from './unfinished.js';
import { SOCKET_NAME, SOCKET_PORT, socketFolderIn } from './url-file.js';

/** The pause before the thread is started again. It doubles with each start that fails, as on a disk without room. */
const RESTART_MS = 1_000;
const MAX_RESTART_MS = 15_000;

export interface EmbeddedDatabase {
  /** For `connectDatabase`, in this process and in others of this user. */
  readonly url: string;
  /** Closes all connections and the files. */
  stop(): Promise<void>;
}

/**
 * Starts a Postgres inside of this program (PGlite) for a host without one, and serves it to the processes of this host.
 *
 * It listens on a Unix socket in a folder that only this user may enter; where there are none, on a port of 127.0.0.1.
 * It has no passwords: everybody who can connect may do everything. One process at a time uses a folder.
 *
 * @param options `dir`: where the data are kept; made when it does not exist
 * @throws UnusableFolderError when the folder cannot be made or written
 * @throws FolderInUseError when another process has the folder, in this container or another one
 * @throws ForeignFilesError when the files belong to another user
 */
export async function startEmbeddedDatabase(options: { dir: string; logger: Logger }): Promise<EmbeddedDatabase> {
  const dir = resolve(options.dir);
  makeFolder(dir);
  tryFolder(dir);
  const data = dataIn(dir);
  if (existsSync(data) && !existsSync(claimsIn(dir))) {
    // Asking for the lock would leave a folder that the owner of the files cannot use.
    checkOwner(data);
  }
  const unlock = await lockFolder(dir).catch((error: unknown) => {
    throw asUnusable(dir, error);
  });
  try {
    makeFolder(data);
    makePrivate(data);
    tryFolder(data);
    beginFirstStart(data);
    const address = chooseAddress(dir);
    const supervisor = new Supervisor({ dir: data, listen: address.listen }, options.logger);
    const port = await supervisor.start();
    return {
      // All connections share the one session that there is, so names of prepared statements would collide. It speaks no
      // TLS, whatever PGSSLMODE and PGSSLNEGOTIATION say.
      url: `postgres://postgres@127.0.0.1:${port ?? SOCKET_PORT}/postgres?prepare=false&sslmode=disable&sslnegotiation=postgres${address.query}`,
      stop: async () => {
        await supervisor.stop();
        address.remove();
        unlock();
      },
    };
  } catch (error) {
    unlock();
    throw asUnusable(dir, error);
  }
}

/** Where the database's own files are. */
const dataIn = (dir: string): string => join(dir, 'data');

/**
 * Whether a database could be started in a folder, as far as that shows without a trace. Another process may have it.
 * @throws Error whose message says why not
 */
export function examineFolder(folder: string): void {
  const dir = resolve(folder);
  tryPlace(dir);
  if (existsSync(dataIn(dir))) {
    checkOwner(dataIn(dir));
    tryFolder(dataIn(dir));
  }
}

interface Address {
  readonly listen: ListenOptions;
  /** What the URL says about it. */
  readonly query: string;
  remove(): void;
}

function chooseAddress(dir: string): Address {
  if (process.platform === 'win32') {
    return { listen: { host: '127.0.0.1', port: 0 }, query: '', remove() {} };
  }
  const own = socketFolderIn(dir);
  const folder = socketFits(own, SOCKET_NAME) ? own : mkdtempSync(join(tmpdir(), 'taskwire-'));
  makeFolder(folder);
  chmodSync(folder, 0o700);
  return {
    listen: { path: join(folder, SOCKET_NAME) },
    query: `&host=${encodeURIComponent(folder)}`,
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}

/** Keeps the database's thread running. */
class Supervisor {
  private thread: Worker | undefined;
  private stopping = false;

  constructor(
    private data: ThreadData,
    private readonly logger: Logger,
  ) {}

  /** @returns the port that was chosen, where there is one */
  async start(): Promise<number | undefined> {
    const thread = new Worker(new URL('./thread.js', import.meta.url), { workerData: this.data });
    this.thread = thread;
    const { port }: ThreadReady = await new Promise((resolve, reject) => {
      thread.once('message', resolve);
      thread.once('error', reject);
      thread.once('exit', (code) => reject(new Error(`the embedded database ended with code ${code}`)));
    });
    if (port !== undefined) {
      // Its clients know this port, so that a new thread has to take it too.
      this.data = { ...this.data, listen: { ...this.data.listen, port } };
    }
    thread.removeAllListeners();
    thread.once('error', (error) => this.logger.error('the embedded database failed', { error }));
    thread.once('exit', () => this.revive());
    return port;
  }

  async stop(): Promise<void> {
    this.stopping = true;
    const { thread } = this;
    if (thread !== undefined) {
      const exited = once(thread, 'exit');
      thread.postMessage('stop' satisfies ThreadCommand);
      await exited;
    }
  }

  private async revive(): Promise<void> {
    this.thread = undefined;
    // Each cause is told once, however often it is met.
    const told = new Set<string>();
    for (let pauseMs = RESTART_MS; !this.stopping && this.thread === undefined; pauseMs *= 2) {
      await sleep(Math.min(pauseMs, MAX_RESTART_MS), undefined, { ref: false });
      try {
        await this.start();
        this.logger.warn('the embedded database was started again');
      } catch (error) {
        this.thread = undefined;
        const { message } = error as Error;
        if (!told.has(message)) {
          told.add(message);
          this.logger.error('the embedded database does not start; it is tried again', { error });
        }
      }
    }
  }
}
