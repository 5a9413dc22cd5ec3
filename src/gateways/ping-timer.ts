import { OccasionalTimer } from '../base/occasional-timer.js';

/** A connection as the timer sees it. Times are milliseconds of the monotonic clock. */
interface PingedConnection {
  /** When its interval began: with a pong, or with whatever else counts as a sign of life. */
  heardAt: number;
  /** When it was pinged; 0: it has answered since. */
  readonly pingedAt: number;
  ping(): void;
  /** No answer came in time: it ends. */
  unanswered(): void;
}

/** Pings connections at the end of their intervals, and tells those that do not answer. One timer serves all while there are any. */
export class PingTimer {
  private readonly connections = new Set<PingedConnection>();
  private readonly beatMs: number;
  private readonly timer: OccasionalTimer;

  constructor(
    private readonly intervalMs: number,
    private readonly timeoutMs: number,
  ) {
    this.beatMs = Math.min(1_000, intervalMs / 2, timeoutMs / 2);
    this.timer = new OccasionalTimer(this.beatMs, () => this.beat());
  }

  add(connection: PingedConnection): void {
    // A random part earlier, so that connections that came together are not pinged together.
    connection.heardAt -= Math.random() * (this.intervalMs / 2);
    this.connections.add(connection);
    this.timer.start();
  }

  delete(connection: PingedConnection): void {
    this.connections.delete(connection);
    if (this.connections.size === 0) {
      this.timer.stop();
    }
  }

  private beat(): void {
    const now = performance.now();
    for (const connection of this.connections) {
      if (connection.pingedAt > 0) {
        if (now - connection.pingedAt >= this.timeoutMs) {
          connection.unanswered();
        }
      } else if (now - connection.heardAt >= this.intervalMs - this.beatMs) {
        // Up to a beat early, never late: clients of Socket.IO count the time between pings.
        connection.ping();
      }
    }
  }
}
