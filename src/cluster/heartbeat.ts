/** Interval at which a worker reports that its event loop runs, and at which the primary checks it, in milliseconds. */
export const BEAT_MS = 500;
/** Checks without a beat until a worker counts as silent and gets no new connections: 4 s. */
const SILENT_LOOKS = 8;
/** Checks without a beat until it counts as lost and is killed: 20 s. */
const LOST_LOOKS = 40;
/** The same for a worker that is still loading its program: 60 s. */
const LOST_LOOKS_AT_FIRST = 120;

export type Pulse = 'beating' | 'silent' | 'lost';

/**
 * Whether a worker's event loop runs. Checks are counted, not time: a primary that was held up itself, or a machine that was
 * asleep, has not checked meanwhile, and reads the waiting beats before it checks again.
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
