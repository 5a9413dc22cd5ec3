import type { ChildProcess } from 'node:child_process';
import cluster from 'node:cluster';

/**
 * Loaded into an instance: its primary learns late that a worker has taken a connection, as one does that has much to do,
 * and has that connection in its hands as well until then.
 */
const LATE_MS = 1;

function listenLate(child: ChildProcess): void {
  const emit = child.emit.bind(child);
  child.emit = (event: string | symbol, ...values: unknown[]): boolean => {
    const [message] = values as [{ cmd?: unknown } | undefined];
    if (event === 'internalMessage' && message?.cmd === 'NODE_HANDLE_ACK') {
      setTimeout(() => emit(event, ...values), LATE_MS);
      return true;
    }
    return emit(event, ...values);
  };
}

cluster.on('fork', ({ process: child }) => listenLate(child as ChildProcess));
