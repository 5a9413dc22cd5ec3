import type { ErrorCode } from '../protocol/errors.js';
import type { Identity } from '../protocol/tasks.js';
import type { Place } from './connections.js';
import type { FrameChain, FrameSink, FrameWriter } from './frame-writer.js';
import type { Meter, MeterListener, Meters } from './meter.js';

export interface MessageConnectionOptions {
  readonly writer: FrameWriter;
  readonly meters: Pick<Meters, 'renew'>;
  readonly limits: {
    readonly MAX_ROOMS_PER_CONNECTION: number;
    readonly MAX_BUFFERED_BYTES: number;
    readonly DIRECT_FRAMES: boolean;
  };
}

/** What connections of both message transports have in common: the identity, the meter, and the bound of what may wait. */
export abstract class MessageConnection implements FrameSink, MeterListener {
  pending: FrameChain | undefined;
  place: Place | undefined;
  /** Bytes that were written although too much waited. */
  private excess = 0;

  constructor(
    private who: Identity,
    readonly meter: Meter,
    protected readonly options: MessageConnectionOptions,
  ) {}

  /** Bytes that wait in the transport. */
  protected abstract get waiting(): number;
  abstract writeFrames(bytes: Buffer): void;
  abstract close(code: ErrorCode): void;
  abstract onSlowed(retryAfterMs: number): void;

  onExceeded(): void {
    this.close('RATE_LIMIT_EXCEEDED');
  }

  get identity(): Identity {
    return this.who;
  }

  /** Other credentials have come: from now on the connection spends what their key may. */
  set identity(identity: Identity) {
    this.who = identity;
    this.options.meters.renew(this.meter, identity);
  }

  /** Whether something more may be written. While too much waits the hub holds events back, so this concerns only answers. */
  protected admits(bytes: number): boolean {
    const { MAX_BUFFERED_BYTES } = this.options.limits;
    if (this.waiting <= MAX_BUFFERED_BYTES) {
      this.excess = 0;
      return true;
    }
    this.excess += bytes;
    if (this.excess <= MAX_BUFFERED_BYTES) {
      return true;
    }
    this.close('SLOW_CONSUMER');
    return false;
  }

  /** Tells the hub when too much waits: it holds further events back. */
  protected watch(): void {
    if (this.waiting > this.options.limits.MAX_BUFFERED_BYTES) {
      this.place?.session.fallBehind();
    }
  }
}
