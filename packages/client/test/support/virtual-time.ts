import type { Surroundings } from '@taskwire/client';

interface Timer {
  readonly at: number;
  readonly order: number;
  readonly work: () => void;
}

/** Time that passes when it is told to, and chance from a seed. */
export class VirtualTime implements Surroundings {
  private time = 0;
  private order = 0;
  private timers = new Set<Timer>();
  private state: number;

  constructor(seed: number) {
    this.state = seed >>> 0 || 1;
  }

  now = (): number => this.time;

  random = (): number => {
    // xorshift32
    this.state ^= this.state << 13;
    this.state ^= this.state >>> 17;
    this.state ^= this.state << 5;
    return (this.state >>> 0) / 2 ** 32;
  };

  setTimeout = (work: () => void, ms: number): unknown => {
    const timer: Timer = { at: this.time + ms, order: this.order++, work };
    this.timers.add(timer);
    return timer;
  };

  clearTimeout = (timer: unknown): void => {
    this.timers.delete(timer as Timer);
  };

  /** Lets time pass, with everything that is due in it. */
  async pass(ms: number): Promise<void> {
    const end = this.time + ms;
    await rest();
    for (;;) {
      let next: Timer | undefined;
      for (const timer of this.timers) {
        if (
          timer.at <= end &&
          (next === undefined || timer.at < next.at || (timer.at === next.at && timer.order < next.order))
        ) {
          next = timer;
        }
      }
      if (next === undefined) {
        break;
      }
      this.timers.delete(next);
      this.time = Math.max(this.time, next.at);
      next.work();
      await rest();
    }
    this.time = end;
  }

  /** Time goes on and no timer runs, as in a page that is frozen: they run late, when time passes again. */
  freeze(ms: number): void {
    this.time += ms;
  }
}

/** What promises have still to do is done. */
async function rest(): Promise<void> {
  for (let turn = 0; turn < 30; turn += 1) {
    await Promise.resolve();
  }
}
