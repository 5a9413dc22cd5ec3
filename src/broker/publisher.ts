import { type Logger, silentLogger } from '../base/logger.js';
import type { TaskEvent } from '../protocol/events.js';
import { encodeStreamMessage } from '../protocol/stream-message.js';
import { type Publishing, streamChannel } from './broker.js';

/** Failed publishes are logged at most once in this time, in milliseconds. */
const COMPLAINT_MS = 5_000;
/** While none succeeds they are logged ever more rarely, but once in this time: the broker itself has told that it is away. */
const LONGEST_MS = 600_000;

/**
 * Publishes each committed event on the channel of its stream, so that hubs deliver it at once. A failure is counted and
 * logged, and never thrown: the event is in the log, where the hubs find it when they reconcile.
 */
export class Publisher {
  published = 0;
  failed = 0;
  private complainedAt = Number.NEGATIVE_INFINITY;
  private pauseMs = COMPLAINT_MS;

  /**
   * @param transport a broker, or anything that can publish a message on a channel; without one, the workers find the
   *   events when they next look into the log
   * @param logger told about failures, at most every five seconds, and ever more rarely while all fail
   */
  constructor(
    private readonly transport?: Publishing,
    private readonly logger: Pick<Logger, 'warn'> = silentLogger,
  ) {}

  /** Publishes events that are committed, in their order. Returns at once and never throws. */
  publish(events: readonly TaskEvent[]): void {
    const { transport } = this;
    if (transport === undefined) {
      return;
    }
    for (const event of events) {
      try {
        transport.publish(streamChannel(event.userId), encodeStreamMessage(event)).then(
          () => {
            this.published += 1;
            this.pauseMs = COMPLAINT_MS;
          },
          (error: unknown) => this.complain(error),
        );
      } catch (error) {
        // A transport of another program may throw at once.
        this.complain(error);
      }
    }
  }

  private complain(error: unknown): void {
    this.failed += 1;
    const now = performance.now();
    if (now - this.complainedAt >= this.pauseMs) {
      this.pauseMs = Math.min(2 * this.pauseMs, LONGEST_MS);
      this.complainedAt = now;
      this.logger.warn('events were committed but not published; workers will find them in the log', {
        failed: this.failed,
        error,
      });
    }
  }
}
