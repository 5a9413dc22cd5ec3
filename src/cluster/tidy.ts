import type { EventEmitter } from 'node:events';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** A storm: so many connections leave enough garbage to be worth a pause. */
const MANY = 500;
const LOOK_MS = 15_000;

/**
 * Collects garbage when a storm of connections is over. A connection keeps little memory, but setting it up leaves much
 * garbage. A quiet worker allocates almost nothing, so Node.js would not collect it for a long time.
 * @param http the server whose connections are counted
 * @param collect what collects
 */
export function tidyAfterStorms(http: EventEmitter, collect: () => void = collector()): void {
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

/** The garbage collector, without an option on the command line of Node.js. */
function collector(): () => void {
  setFlagsFromString('--expose-gc');
  return runInNewContext('gc') as () => void;
}
