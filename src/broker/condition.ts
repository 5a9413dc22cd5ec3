import type { Logger } from '../base/logger.js';
import type { Availability, BrokerState } from './broker.js';
import { guarded } from './channels.js';

/** Why a part of the broker does not work. */
export interface Fault {
  /** A short name of the cause, such as READONLY or ECONNREFUSED. A cause is told once in an outage. */
  readonly code: string;
  /** The cause in words: the server's own, where it gave a reason. */
  readonly reason: string;
  /** What an operator can do about it. */
  readonly hint?: string | undefined;
}

/** What a broker does, by part: what is lost without it, and what is said when it is back. */
const PARTS = {
  events: {
    lost: 'events between instances come late',
    back: 'events between instances come at once',
  },
  limits: {
    lost: 'limits are counted by each worker',
    back: 'limits are counted over all workers',
  },
} as const;

export type BrokerPart = keyof typeof PARTS;

/** A connection is being made: nothing to tell yet. */
export const CONNECTING: Fault = { code: 'CONNECTING', reason: 'not connected yet' };

interface PartState {
  fault: Fault | undefined;
  /** When it failed, in milliseconds of the monotonic clock. */
  since: number;
  /** Causes that were told since then. */
  readonly told: Set<string>;
}

/**
 * Which parts of a broker work. Each change is a line of the log with its reason; in one outage each cause is told once,
 * however often the server is asked again.
 */
export class Condition implements Availability {
  private readonly parts: Record<BrokerPart, PartState>;
  private readonly onUps: Array<() => void> = [];
  private readonly onDowns: Array<() => void> = [];
  private silent = false;

  constructor(private readonly logger: Pick<Logger, 'error' | 'warn' | 'info'>) {
    const part = (): PartState => ({ fault: CONNECTING, since: performance.now(), told: new Set() });
    this.parts = { events: part(), limits: part() };
  }

  get up(): boolean {
    return this.parts.events.fault === undefined;
  }

  get state(): BrokerState {
    const lost = Object.entries(PARTS)
      .filter(([part]) => this.parts[part as BrokerPart].fault !== undefined)
      .map(([, { lost }]) => lost);
    return { status: lost.length === 0 ? 'up' : lost.length === Object.keys(PARTS).length ? 'down' : 'degraded', lost };
  }

  fault(part: BrokerPart): Fault | undefined {
    return this.parts[part].fault;
  }

  onUp(listener: () => void): void {
    this.onUps.push(listener);
  }

  onDown(listener: () => void): void {
    this.onDowns.push(listener);
  }

  /** A part does not work. */
  lose(part: BrokerPart, fault: Fault): void {
    const state = this.parts[part];
    const worked = state.fault === undefined;
    state.fault = fault;
    if (worked) {
      state.since = performance.now();
    }
    if (fault !== CONNECTING && !state.told.has(fault.code) && !this.silent) {
      state.told.add(fault.code);
      const { code, reason, hint } = fault;
      this.logger.warn(`broker: ${PARTS[part].lost}`, { code, reason, ...(hint === undefined ? {} : { hint }) });
    }
    if (worked && part === 'events') {
      this.tell(this.onDowns, false);
    }
  }

  /** A part works. */
  regain(part: BrokerPart): void {
    const state = this.parts[part];
    if (state.fault === undefined) {
      return;
    }
    state.fault = undefined;
    if (state.told.size > 0 && !this.silent) {
      const afterSeconds = Math.round((performance.now() - state.since) / 100) / 10;
      this.logger.info(`broker: ${PARTS[part].back}`, { afterSeconds });
    }
    state.told.clear();
    if (part === 'events') {
      this.tell(this.onUps, true);
    }
  }

  /** Both parts work. */
  regainAll(): void {
    this.regain('limits');
    this.regain('events');
  }

  /** Both parts are gone. */
  loseAll(fault: Fault): void {
    this.lose('events', fault);
    this.lose('limits', fault);
  }

  /** The broker is stopped on purpose: nothing is logged about it any more. */
  end(): void {
    this.silent = true;
    this.loseAll({ code: 'STOPPED', reason: 'it was stopped' });
  }

  private tell(listeners: ReadonlyArray<() => void>, up: boolean): void {
    for (const listener of listeners) {
      guarded(this.logger, listener, { up });
    }
  }
}
