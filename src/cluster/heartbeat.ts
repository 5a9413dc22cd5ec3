/** How often a worker says that its event loop turns, and how often the primary looks whether it did, in milliseconds. */
export const BEAT_MS = 500;
/** Looks without a beat until a worker counts as silent: 4 s, and gets no new connections. */
const SILENT_LOOKS = 8;
/** Looks without a beat until it counts as lost: 20 s, and is killed. */
const LOST_LOOKS = 40;
/** A worker that is only loading its program beats late: 60 s. */
const LOST_LOOKS_AT_FIRST = 120;

export type Pulse = 'beating' | 'silent' | 'lost';

/**
 * Whether a worker's event loop turns. Looks are counted, not time: a primary that was held up itself, or a machine that was asleep,
 * has not looked meanwhile, and hears the beats that wait before it looks again.
 */
export class Heartbeat {
  private looks = 0;
  private everHeard = false;

  heard(): void {
    this.looks = 0;
    this.everHeard = true;
  }

  /** To be called every BEAT_MS. */
  look(): Pulse {
    this.looks += 1;
    if (this.looks > (this.everHeard ? LOST_LOOKS : LOST_LOOKS_AT_FIRST)) {
      return 'lost';
    }
    return this.looks > SILENT_LOOKS ? 'silent' : 'beating';
  }
}
