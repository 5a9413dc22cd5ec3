import { randomUUID } from 'node:crypto';
import type { Logger } from '../base/logger.js';
import type { Availability, BrokerState, Nodes } from './broker.js';
import { Channels } from './channels.js';
import { Condition } from './condition.js';

/** What every kind of broker has: an id among the nodes, the listeners of its channels, and its condition. */
export abstract class BrokerNode implements Availability, Pick<Nodes, 'nodeId'> {
  readonly nodeId = randomUUID();
  protected readonly channels: Channels;
  protected readonly condition: Condition;

  constructor(logger: Pick<Logger, 'error' | 'warn' | 'info'>) {
    this.channels = new Channels(logger);
    this.condition = new Condition(logger);
  }

  get up(): boolean {
    return this.condition.up;
  }

  get state(): BrokerState {
    return this.condition.state;
  }

  onUp(listener: () => void): void {
    this.condition.onUp(listener);
  }

  onDown(listener: () => void): void {
    this.condition.onDown(listener);
  }
}
