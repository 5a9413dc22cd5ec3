/** Unused units add up for so many seconds. */
const BURST_SECONDS = 10;
/** One message may cost more than there is. The debt is at most what comes back in so many seconds. */
const DEBT_SECONDS = 5;

/** Somebody who waits for a unit. */
export interface Waiter {
  /** Called when a unit is there and everybody who came earlier was served. It should spend the unit. */
  serve(): void;
}

export interface AllowanceOptions {
  /** Units that come back in a second. */
  readonly rate: number;
  /** Most units that can be there at once; what comes in ten seconds when absent. */
  readonly burst?: number;
  /** Milliseconds since any fixed moment. */
  readonly now?: () => number;
}

/**
 * Units that are spent and come back with time. Example: with a rate of 50, 500 messages may come at once; after that,
 * one each 20 ms. Whoever finds none waits in line.
 */
export class Allowance {
  private readonly rate: number;
  private readonly burst: number;
  private readonly now: () => number;
  private units: number;
  private at: number;
  /** Those who wait, while there are any. */
  private line: Waiter[] | undefined;
  private timer: NodeJS.Timeout | undefined;

  constructor({ rate, burst = rate * BURST_SECONDS, now = () => performance.now() }: AllowanceOptions) {
    this.rate = rate;
    this.burst = burst;
    this.now = now;
    this.units = burst;
    this.at = now();
  }

  /** Milliseconds until a unit is there; 0: there is one now. */
  get waitMs(): number {
    this.refill();
    return this.units >= 1 ? 0 : ((1 - this.units) / this.rate) * 1_000;
  }

  /** Units that are there; negative: they are owed. */
  get left(): number {
    this.refill();
    return this.units;
  }

  /** Whether somebody waits in line. */
  get awaited(): boolean {
    return this.line !== undefined;
  }

  spend(units: number): void {
    this.refill();
    this.units = Math.max(this.units - units, -this.rate * DEBT_SECONDS);
  }

  queue(waiter: Waiter): void {
    this.line ??= [];
    this.line.push(waiter);
    this.arm();
  }

  /** Leaves the line. */
  leave(waiter: Waiter): void {
    this.line = this.line?.filter((other) => other !== waiter);
    this.rest();
  }

  private arm(): void {
    this.timer ??= setTimeout(() => this.serve(), Math.max(1, Math.ceil(this.waitMs)));
  }

  private serve(): void {
    this.timer = undefined;
    // Somebody who is served may queue again at once, at the end: so the line is gone through once.
    for (let left = this.line?.length ?? 0; left > 0 && this.waitMs === 0; left -= 1) {
      this.line?.shift()?.serve();
    }
    if (!this.rest()) {
      this.arm();
    }
  }

  /** @returns whether nobody waits */
  private rest(): boolean {
    if (this.line === undefined || this.line.length > 0) {
      return this.line === undefined;
    }
    this.line = undefined;
    clearTimeout(this.timer);
    this.timer = undefined;
    return true;
  }

  private refill(): void {
    const now = this.now();
    this.units = Math.min(this.burst, this.units + ((now - this.at) / 1_000) * this.rate);
    this.at = now;
  }
}
