import type { Logger } from '../../base/logger.js';

type MessageListener = (...message: Buffer[]) => unknown;

/**
 * Lets a listener of Socket.IO's adapter fail on a message that it cannot read: whoever may publish there could end the
 * process with one otherwise. It is told once.
 */
export function forgiving(listener: MessageListener, logger: Pick<Logger, 'warn'>): MessageListener {
  let told = false;
  const note = (error: unknown): void => {
    if (!told) {
      told = true;
      logger.warn('a message on a channel of Socket.IO cannot be read, and is left out', { error });
    }
  };
  return (...message) => {
    try {
      const taken = listener(...message);
      if (taken instanceof Promise) {
        taken.catch(note);
      }
    } catch (error) {
      note(error);
    }
  };
}
