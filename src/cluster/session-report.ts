import type { WorkerSessions } from './messages.js';

/**
 * Tells the primary which sessions have begun and ended, so that sticky knows where they are and how many each worker has:
 * what a turn of the event loop brings is one message.
 */
export class SessionReport {
  private opened: string[] = [];
  private closed: string[] = [];
  private readonly sendSoon = (): void => this.send();

  constructor(private readonly tell: (message: WorkerSessions) => void) {}

  open(id: string): void {
    this.expect();
    this.opened.push(id);
  }

  close(id: string): void {
    this.expect();
    this.closed.push(id);
  }

  /** Sends at once what would be sent at the end of this turn. */
  send(): void {
    const { opened, closed } = this;
    if (opened.length + closed.length > 0) {
      this.opened = [];
      this.closed = [];
      this.tell({ type: 'worker:sessions', opened, closed });
    }
  }

  private expect(): void {
    if (this.opened.length + this.closed.length === 0) {
      setImmediate(this.sendSoon);
    }
  }
}
