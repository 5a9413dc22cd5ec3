import type { Worker } from 'node:cluster';

/** Messages of a worker to the primary. */
export type ToPrimary =
  /** It can serve. `nodeId` is its broker's. */
  | { readonly type: 'taskwire:ready'; readonly nodeId: string }
  /** Its event loop runs. */
  | { readonly type: 'taskwire:alive' }
  /** So many connections that it was handed have ended, or never arrived. */
  | { readonly type: 'taskwire:closed'; readonly connections: number }
  // The local broker's (`LocalPrimary` says what they do).
  | { readonly type: 'taskwire:hello'; readonly nodeId: string }
  | { readonly type: 'taskwire:bye' }
  | { readonly type: 'taskwire:subscribe'; readonly call: number; readonly channel: string }
  | { readonly type: 'taskwire:unsubscribe'; readonly call: number; readonly channel: string }
  | { readonly type: 'taskwire:publish'; readonly items: Array<[channel: string, message: Uint8Array]> }
  | {
      readonly type: 'taskwire:consume';
      readonly call: number;
      readonly key: string;
      readonly limit: number;
      readonly requests: number;
    }
  | { readonly type: 'taskwire:acquire'; readonly call: number; readonly address: string; readonly limit: number }
  | { readonly type: 'taskwire:release'; readonly address: string }
  | { readonly type: 'taskwire:nodes'; readonly call: number };

/** Messages of the primary to a worker. */
export type ToWorker =
  /** Send your connections away and exit. */
  | { readonly type: 'taskwire:drain' }
  /** Another worker of this primary has ended without having left: its process is gone. */
  | { readonly type: 'taskwire:died'; readonly nodeId: string }
  /** Events were committed that nobody publishes: of these users, or of any. */
  | { readonly type: 'taskwire:changed'; readonly users: readonly string[] | undefined }
  /** Whether the worker is told of such events. */
  | { readonly type: 'taskwire:listening'; readonly listening: boolean }
  | { readonly type: 'taskwire:messages'; readonly items: Array<[channel: string, message: Uint8Array]> }
  | { readonly type: 'taskwire:answer'; readonly call: number; readonly result: unknown };

/** One end of the way between two processes. */
export interface ProcessChannel<Out, In> {
  /** @throws when the other end is gone */
  send(message: Out): void;
  onMessage(listener: (message: In) => void): void;
  onClose(listener: () => void): void;
}

export type WorkerChannel = ProcessChannel<ToPrimary, ToWorker>;
export type PrimaryChannel = ProcessChannel<ToWorker, ToPrimary>;

/** Socket.IO's cluster adapter and sticky send messages of their own over the same channel of Node.js. */
const isOurs = (message: unknown): boolean =>
  typeof message === 'object' &&
  message !== null &&
  String((message as { type?: unknown }).type).startsWith('taskwire:');

/** Ignores a failed write: the channel ends then. Without a callback Node.js would throw the error. */
const ignore = (): void => {};

/** A worker's end. */
export function channelToPrimary(): WorkerChannel {
  return {
    send(message) {
      if (process.send === undefined || !process.connected) {
        throw new Error('the primary is gone');
      }
      process.send(message, undefined, undefined, ignore);
    },
    onMessage(listener) {
      process.on('message', (message) => {
        if (isOurs(message)) {
          listener(message as ToWorker);
        }
      });
    },
    onClose(listener) {
      process.once('disconnect', listener);
    },
  };
}

/** The primary's end of the way to one worker. */
export function channelToWorker(worker: Worker): PrimaryChannel {
  return {
    send(message) {
      if (!worker.isConnected()) {
        throw new Error('the worker is gone');
      }
      worker.send(message, ignore);
    },
    onMessage(listener) {
      worker.on('message', (message: unknown) => {
        if (isOurs(message)) {
          listener(message as ToPrimary);
        }
      });
    },
    onClose(listener) {
      worker.once('disconnect', listener);
    },
  };
}

/** Both ends within one process, for a service that has no workers. Messages arrive after the running function. */
export function channelWithin(): { worker: WorkerChannel; primary: PrimaryChannel } {
  const toWorker: Array<(message: ToWorker) => void> = [];
  const toPrimary: Array<(message: ToPrimary) => void> = [];
  const end = <Out, In>(far: Array<(message: Out) => void>, near: Array<(message: In) => void>) => ({
    send(message: Out) {
      queueMicrotask(() => {
        for (const listener of far) {
          listener(message);
        }
      });
    },
    onMessage(listener: (message: In) => void) {
      near.push(listener);
    },
    // It lasts as long as the process.
    onClose() {},
  });
  return { worker: end(toPrimary, toWorker), primary: end(toWorker, toPrimary) };
}
