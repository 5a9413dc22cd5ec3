import { rmSync } from 'node:fs';
import type { ListenOptions } from 'node:net';
import { parentPort, workerData } from 'node:worker_threads';
import { PGlite } from '@electric-sql/pglite';
import { PrivateFiles } from './private-files.js';
import { SocketServer } from './socket-server.js';

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
  const database = await PGlite.create({ fs: new PrivateFiles(dir) });
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

await main();
