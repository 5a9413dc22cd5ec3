import type { EventEmitter } from 'node:events';

/** Connections that leave behind what is worth a pause to collect. */
const MANY = 500;
const LOOK_MS = 15_000;

/**
 * Collects garbage when a storm of connections is over. A connection keeps little, but setting it up leaves much behind, which
 * nothing would collect for a long time: a worker that is quiet allocates next to nothing.
 * @param http the server whose connections are counted
 * @param collect what collects; there is nothing to be done where Node.js runs without `--expose-gc`
 */
export function tidyAfterStorms(http: EventEmitter, collect: (() => void) | undefined = globalThis.gc): void {
  if (collect === undefined) {
    return;
  }
  let opened = 0;
  let openedThen = 0;
  http.on('connection', () => {
    opened += 1;
  });
  setInterval(() => {
    if (opened >= MANY && opened === openedThen) {
      opened = 0;
      collect();
    }
    openedThen = opened;
  }, LOOK_MS).unref();
}
