/** A connection as the timer sees it. Times are milliseconds of the monotonic clock. */
interface PingedConnection {
  /** When something came from it last. */
  heardAt: number;
  /** When it was pinged; 0: something came since. */
  readonly pingedAt: number;
  ping(): void;
  /** Closes it at once. */
  terminate(): void;
}

/** Pings connections that have been silent, and terminates those that do not answer. One timer serves all. */
export class PingTimer {
  private readonly connections = new Set<PingedConnection>();
  private readonly timer: NodeJS.Timeout;

  constructor(
    private readonly intervalMs: number,
    private readonly timeoutMs: number,
  ) {
    this.timer = setInterval(() => this.beat(), Math.min(1_000, intervalMs, timeoutMs)).unref();
  }

  add(connection: PingedConnection): void {
    // A random part earlier, so that connections that came together are not pinged together.
    connection.heardAt -= Math.random() * (this.intervalMs / 2);
    this.connections.add(connection);
  }

  delete(connection: PingedConnection): void {
    this.connections.delete(connection);
  }

  stop(): void {
    clearInterval(this.timer);
  }

  private beat(): void {
    const now = performance.now();
    for (const connection of this.connections) {
      if (connection.pingedAt > 0) {
        if (now - connection.pingedAt >= this.timeoutMs) {
          connection.terminate();
        }
      } else if (now - connection.heardAt >= this.intervalMs) {
        connection.ping();
      }
    }
  }
}
