import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdirSync, readdirSync, readlinkSync, realpathSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { makeFolder } from './make-folder.js';
import { openSocketFolder, type SocketFolder } from './socket-folder.js';

/** The holder of a folder, as it describes itself. */
interface Holder {
  readonly pid: number;
  readonly host: string;
  /** The process namespace of `pid`; empty where the system has none. */
  readonly namespace: string;
  /** Whether it has the folder; otherwise it is only asking for it. */
  readonly holds: boolean;
}

/** The folder belongs to a process that is alive. */
export class FolderInUseError extends Error {
  override readonly name = 'FolderInUseError';

  constructor(
    readonly folder: string,
    /** The process in words. */
    readonly holder: string,
  ) {
    super(`${folder} is in use by ${holder}; stop it, or choose another folder with DATA_DIR`);
  }
}

/** How long a process with a claim may take to answer, in milliseconds. One that does not answer counts as the holder. */
const ANSWER_MS = 2_000;
const RETRY_MS = 50;
/** How often several that ask at once try to agree. */
const MAX_ROUNDS = 100;

/**
 * Takes a folder for this process.
 *
 * The lock is a socket on which the holder listens. The kernel closes it with the process, and every container that shares the
 * folder can try it; process ids would mean nothing there. Each process that wants the folder first listens on a socket of its
 * own in it (a claim), then tries those of the others. Of two processes at least one sees the other. No name is used twice, so
 * claims of dead processes can be removed without a race.
 *
 * It holds for the processes and containers of one machine, not for machines that share a file system.
 *
 * @returns gives the folder back
 * @throws FolderInUseError
 */
export async function lockFolder(folder: string): Promise<() => void> {
  if (process.platform === 'win32') {
    return lockPipe(folder);
  }
  const sockets = openClaims(folder);
  try {
    for (let round = 0; round < MAX_ROUNDS; round += 1) {
      const claim = await makeClaim(folder, sockets);
      const held = await contend(folder, sockets, claim).catch((error: unknown) => {
        claim.withdraw();
        throw error;
      });
      if (held) {
        return () => {
          claim.withdraw();
          sockets.close();
        };
      }
      claim.withdraw();
      await sleep(RETRY_MS * (1 + Math.random()));
    }
    throw new FolderInUseError(folder, 'several processes that want it too');
  } catch (error) {
    sockets.close();
    throw error;
  }
}

const NAME_BYTES = 6;

/** Where the claims on a folder are. */
export const claimsIn = (folder: string): string => join(folder, 'locks');

function openClaims(folder: string): SocketFolder {
  const claims = claimsIn(folder);
  makeFolder(claims);
  chmodSync(claims, 0o700);
  const open = openSocketFolder(claims, 'x'.repeat(2 * NAME_BYTES));
  if (open !== undefined) {
    return open;
  }
  // No containers here that could share the folder: one place for all processes of this user will do.
  const elsewhere = join(tmpdir(), `taskwire-${hash(folder)}`);
  mkdirSync(elsewhere, { recursive: true, mode: 0o700 });
  return { path: elsewhere, close() {} };
}

interface Claim {
  readonly name: string;
  /** From now on it says that it has the folder. */
  win(): void;
  withdraw(): void;
}

async function makeClaim(folder: string, sockets: SocketFolder): Promise<Claim> {
  const name = randomBytes(NAME_BYTES).toString('hex');
  try {
    return await listenAt(join(sockets.path, name), name);
  } catch (error) {
    throw new Error(
      `${folder} cannot be locked: its file system takes no Unix sockets (${(error as Error).message}); ` +
        'choose a folder on a disk of this machine, or a volume, with DATA_DIR',
    );
  }
}

async function listenAt(path: string, name: string): Promise<Claim> {
  let holds = false;
  const server = createServer((socket) => {
    socket.on('error', () => {});
    const me: Holder = { pid: process.pid, host: hostname(), namespace: namespace(), holds };
    socket.end(JSON.stringify(me));
  });
  server.listen(path);
  await once(server, 'listening');
  server.unref();
  openToAll(path);
  return {
    name,
    win: () => {
      holds = true;
    },
    withdraw: () => {
      // Removes the socket as well.
      server.close();
    },
  };
}

/** Who may enter the folder may ask, whoever left the claim: to somebody without the right, a dead one would look alive. */
function openToAll(path: string): void {
  try {
    chmodSync(path, 0o666);
  } catch {
    // Another process has removed it already, which this one is about to notice; or it is a pipe of Windows.
  }
}

/**
 * Tries the claims of the others, and removes those of the dead.
 * @returns whether this process has the folder; false: it should ask again
 * @throws FolderInUseError
 */
async function contend(folder: string, sockets: SocketFolder, claim: Claim): Promise<boolean> {
  for (let round = 0; round < MAX_ROUNDS; round += 1) {
    if (!existsSync(join(sockets.path, claim.name))) {
      // Another process tried the claim before it listened, and removed it as a dead one.
      return false;
    }
    const others = readdirSync(sockets.path).filter((name) => name !== claim.name);
    const rivals: string[] = [];
    for (const name of others) {
      const path = join(sockets.path, name);
      const holder = await ask(path);
      if (holder === undefined) {
        rmSync(path, { force: true });
      } else if (holder === 'silent' || holder.holds) {
        throw new FolderInUseError(folder, inWords(holder));
      } else {
        rivals.push(name);
      }
    }
    if (rivals.length === 0) {
      claim.win();
      return true;
    }
    if (rivals.some((name) => name < claim.name)) {
      return false;
    }
    // The others give way.
    await sleep(RETRY_MS);
  }
  return false;
}

/** @returns who listens there; undefined: nobody */
async function ask(path: string): Promise<Holder | 'silent' | undefined> {
  for (const end = performance.now() + ANSWER_MS; performance.now() < end; ) {
    const answer = await askOnce(path, end - performance.now());
    // A process that ends during the question answers nothing: then nobody is there.
    if (answer !== 'cut') {
      return answer;
    }
  }
  return 'silent';
}

function askOnce(path: string, ms: number): Promise<Holder | 'silent' | 'cut' | undefined> {
  return new Promise((resolve) => {
    const socket = connect(path);
    let text = '';
    const timer = setTimeout(() => {
      resolve('silent');
      socket.destroy();
    }, ms);
    socket.setEncoding('utf8').on('data', (chunk) => {
      text += chunk;
    });
    socket.once('error', ({ code }: NodeJS.ErrnoException) => {
      const nobody = code === 'ECONNREFUSED' || code === 'ENOENT';
      const cut = code === 'ECONNRESET' || code === 'EPIPE';
      // Anything else is no proof that nobody is there: a full queue, a socket of another user.
      resolve(nobody ? undefined : cut ? 'cut' : 'silent');
    });
    socket.once('close', () => {
      clearTimeout(timer);
      resolve(text === '' ? 'cut' : parse(text));
    });
  });
}

function parse(text: string): Holder | 'silent' {
  try {
    return JSON.parse(text) as Holder;
  } catch {
    return 'silent';
  }
}

function inWords(holder: Holder | 'silent'): string {
  if (holder === 'silent') {
    return 'a process that does not answer';
  }
  return holder.namespace === namespace()
    ? `process ${holder.pid}`
    : `process ${holder.pid} of another container (host ${holder.host})`;
}

function namespace(): string {
  try {
    return readlinkSync('/proc/self/ns/pid');
  } catch {
    return '';
  }
}

const hash = (folder: string): string => createHash('sha256').update(realpathSync(folder)).digest('hex').slice(0, 16);

/** On Windows a pipe's name belongs to one process at a time. */
async function lockPipe(folder: string): Promise<() => void> {
  const path = `\\\\.\\pipe\\taskwire-${hash(folder)}`;
  try {
    const claim = await listenAt(path, '');
    claim.win();
    return claim.withdraw;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') {
      throw error;
    }
    throw new FolderInUseError(folder, inWords((await ask(path)) ?? 'silent'));
  }
}
