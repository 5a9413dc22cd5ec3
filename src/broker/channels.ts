import type { Logger } from '../base/logger.js';
import { TurnBatch } from '../base/turn-batch.js';
import type { ChannelListener } from './broker.js';

/** Runs a listener. When it throws, the error is logged with `fields`, and the other listeners still run. */
export function guarded(logger: Pick<Logger, 'error'>, listener: () => void, fields: Record<string, unknown>): void {
  try {
    listener();
  } catch (error) {
    logger.error('listener of the broker failed', { ...fields, error });
  }
}

/** Listeners by channel. What arrives within one turn is given to a channel's listener as one batch. */
export class Channels {
  private readonly states = new Map<string, { listener: ChannelListener; batch: Buffer[] }>();
  /** Channels with a batch. The parser hands over all messages of one read synchronously; they belong together. */
  private readonly filled = new TurnBatch<string>((channels) => this.flush(channels), queueMicrotask);

  constructor(private readonly logger: Pick<Logger, 'error'>) {}

  get names(): string[] {
    return [...this.states.keys()];
  }

  set(channel: string, listener: ChannelListener): void {
    this.states.set(channel, { listener, batch: [] });
  }

  delete(channel: string): boolean {
    return this.states.delete(channel);
  }

  /** Takes a message that arrived. Channels without a listener are ignored. */
  take(channel: string, message: Buffer): void {
    const state = this.states.get(channel);
    if (state === undefined) {
      return;
    }
    if (state.batch.push(message) === 1) {
      this.filled.add(channel);
    }
  }

  private flush(channels: readonly string[]): void {
    for (const channel of channels) {
      const state = this.states.get(channel);
      if (state !== undefined && state.batch.length > 0) {
        const { batch } = state;
        state.batch = [];
        guarded(this.logger, () => state.listener(batch), { channel });
      }
    }
  }
}
