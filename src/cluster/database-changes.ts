import cluster, { type Worker } from 'node:cluster';
import type { Logger } from '../base/logger.js';
import { ChangeListener } from '../repository/change-listener.js';
import { type DatabaseChanged, type DatabaseListening, isMessage, type WorkerReady } from './messages.js';

/** Users that are told by name; of more, workers look at all that they follow. */
const MAX_USERS = 1_000;

/**
 * Tells the workers of this instance, in one message for what comes together, whose streams have events that nobody
 * publishes: the instance needs one connection for that.
 */
export function tellOfChanges(url: string, logger: Logger): ChangeListener {
  let users: Set<string> | undefined = new Set();
  let planned = false;
  let listening = false;

  function flush(): void {
    planned = false;
    const message: DatabaseChanged = { type: 'database:changed', users: users && [...users] };
    users = new Set();
    for (const worker of Object.values(cluster.workers ?? {})) {
      tell(worker, message);
    }
  }

  function tellState(worker: Worker | undefined): void {
    const message: DatabaseListening = { type: 'database:listening', listening };
    tell(worker, message);
  }

  cluster.on('message', (worker, message: unknown) => {
    if (isMessage<WorkerReady>(message, 'worker:ready')) {
      tellState(worker);
    }
  });

  const listener = new ChangeListener({
    url,
    logger,
    onChange: (userId) => {
      if (userId === undefined || users === undefined || users.size >= MAX_USERS) {
        users = undefined;
      } else {
        users.add(userId);
      }
      if (!planned) {
        planned = true;
        setImmediate(flush);
      }
    },
    onState: (state) => {
      listening = state;
      for (const worker of Object.values(cluster.workers ?? {})) {
        tellState(worker);
      }
    },
  });
  listener.start();
  return listener;
}

function tell(worker: Worker | undefined, message: object): void {
  if (worker?.isConnected() === true) {
    // Who is gone need not be told.
    worker.send(message, () => {});
  }
}
