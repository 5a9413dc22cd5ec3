import { rmSync } from 'node:fs';
import type { ListenOptions } from 'node:net';
import { parentPort, workerData } from 'node:worker_threads';
import { PGlite } from '@electric-sql/pglite';
import { PrivateFiles } from './private-files.js';
import { SocketServer } from './socket-server.js';
import { endFirstStart } from './unfinished.js';

/** Arguments of the thread. */
export interface ThreadData {
  /** Folder of the database's files. */
  readonly dir: string;
  readonly listen: ListenOptions;
}

/** Its message when it can serve. */
export interface ThreadReady {
  readonly port: number | undefined;
}

/** A command to it. */
export type ThreadCommand = 'stop';

/**
 * The database runs in a thread of its own: its statements are synchronous, and the primary, which hands every new
 * connection of the cluster to a worker, must not stand still meanwhile.
 */
async function main(): Promise<void> {
  const { dir, listen } = workerData as ThreadData;
  const database = await PGlite.create({ fs: new PrivateFiles(dir) }).catch((error: unknown) => {
    throw new Error(`the embedded database in ${dir} cannot be opened: ${reasonOf(error)}`);
  });
  endFirstStart(dir);
  const server = new SocketServer(database, (error) => {
    // The database is in an unknown state. The thread fails, and a new one opens the files again.
    setImmediate(() => {
      throw error;
    });
  });
  parentPort!.once('message', async (_command: ThreadCommand) => {
    await server.stop();
    await database.close();
    parentPort!.close();
  });
  if (listen.path !== undefined) {
    // A thread that failed leaves it there.
    rmSync(listen.path, { force: true });
  }
  const ready: ThreadReady = { port: await server.listen(listen) };
  parentPort!.postMessage(ready);
}

/** Numbers of Emscripten's errors, which have no words. */
const REASONS: Readonly<Record<number, string>> = {
  19: 'the quota of its user on the disk is used up',
  29: 'the disk cannot be read or written',
  51: 'no space is left on the disk',
};

/** Why the database does not start, in words. */
function reasonOf(error: unknown): string {
  const { message, errno } = (error ?? {}) as { message?: string; errno?: number };
  return message || (errno === undefined ? String(error) : (REASONS[errno] ?? `error ${errno} of its files`));
}

await main();
