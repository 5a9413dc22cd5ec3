import type { Worker } from 'node:cluster';
import { isLocalMessage, type PrimaryLink, type ToPrimary } from '../broker/local-link.js';

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
