import type { Worker } from 'node:cluster';

/** Messages between a worker and the primary, over Node's cluster IPC with advanced serialization. */
export type ToPrimary =
  | { type: 'taskwire:hello'; nodeId: string }
  | { type: 'taskwire:bye' }
  | { type: 'taskwire:subscribe'; call: number; channel: string }
  | { type: 'taskwire:unsubscribe'; call: number; channel: string }
  | { type: 'taskwire:publish'; items: Array<[channel: string, message: Uint8Array]> }
  | { type: 'taskwire:consume'; call: number; key: string; limit: number }
  | { type: 'taskwire:acquire'; call: number; address: string; limit: number }
  | { type: 'taskwire:release'; address: string }
  | { type: 'taskwire:nodes'; call: number };

export type ToWorker =
  | { type: 'taskwire:messages'; items: Array<[channel: string, message: Uint8Array]> }
  | { type: 'taskwire:answer'; call: number; result: unknown };

/** One end of the way between a worker and the primary. */
export interface Link<Out, In> {
  /** @throws when the other end is gone */
  send(message: Out): void;
  onMessage(listener: (message: In) => void): void;
  onClose(listener: () => void): void;
}

export type WorkerLink = Link<ToPrimary, ToWorker>;
export type PrimaryLink = Link<ToWorker, ToPrimary>;

/** Whether a message of the process channel is one of these: others use the channel too. */
const isLocalMessage = (message: unknown): boolean =>
  typeof message === 'object' &&
  message !== null &&
  typeof (message as { type?: unknown }).type === 'string' &&
  (message as { type: string }).type.startsWith('taskwire:');

/** The link of a forked worker. */
export function processLink(): WorkerLink {
  return {
    send(message) {
      if (process.send === undefined || !process.connected) {
        throw new Error('the primary is gone');
      }
      // An error of the channel shows as its end; without a callback it would be thrown.
      process.send(message, undefined, undefined, () => {});
    },
    onMessage(listener) {
      process.on('message', (message) => {
        if (isLocalMessage(message)) {
          listener(message as ToWorker);
        }
      });
    },
    onClose(listener) {
      process.once('disconnect', listener);
    },
  };
}

/** The primary's end of the way to a worker. */
export function primaryLink(worker: Worker): PrimaryLink {
  return {
    send(message) {
      if (!worker.isConnected()) {
        throw new Error('the worker is gone');
      }
      // An error of the channel shows as its end; without a callback it would be thrown.
      worker.send(message, () => {});
    },
    onMessage(listener) {
      worker.on('message', (message: unknown) => {
        if (isLocalMessage(message)) {
          listener(message as ToPrimary);
        }
      });
    },
    onClose(listener) {
      worker.once('disconnect', listener);
    },
  };
}
