import type { Broker, BrokerState, ChannelListener, RateLimitResult } from '../../src/broker/broker.js';

/** Brokers of several nodes in one process, for parts that only need channels, limits and places. */
export class FakeBrokers {
  readonly nodes = new Map<string, FakeBroker>();
  readonly rates = new Map<string, number>();
  readonly places = new Map<string, number>();

  add(nodeId: string): FakeBroker {
    const broker = new FakeBroker(nodeId, this);
    this.nodes.set(nodeId, broker);
    return broker;
  }
}

export class FakeBroker implements Broker {
  up = true;
  /** Whether the node is gone although its lease still runs. */
  deaf = false;
  private readonly listeners = new Map<string, ChannelListener>();

  constructor(
    readonly nodeId: string,
    private readonly all: FakeBrokers,
  ) {}

  get state(): BrokerState {
    return this.up ? { status: 'up', lost: [] } : { status: 'down', lost: ['everything'] };
  }

  onUp(): void {}
  onDown(): void {}

  async publish(channel: string, message: Buffer): Promise<void> {
    if (!this.up) {
      throw new Error('down');
    }
    for (const node of this.all.nodes.values()) {
      setImmediate(() => node.deaf || node.listeners.get(channel)?.([message]));
    }
  }

  async subscribe(channel: string, listener: ChannelListener): Promise<void> {
    this.listeners.set(channel, listener);
  }

  async unsubscribe(channel: string): Promise<void> {
    this.listeners.delete(channel);
  }

  socketAdapter(): unknown {
    return undefined;
  }

  async consume(key: string, limit: number, requests = 1): Promise<RateLimitResult> {
    const used = (this.all.rates.get(key) ?? 0) + requests;
    this.all.rates.set(key, used);
    return { allowed: used <= limit, limit, remaining: Math.max(0, limit - used), resetMs: 30_000 };
  }

  async acquireConnection(address: string, limit: number): Promise<(() => void) | undefined> {
    const taken = this.all.places.get(address) ?? 0;
    if (taken >= limit) {
      return undefined;
    }
    this.all.places.set(address, taken + 1);
    let held = true;
    return () => {
      if (held) {
        held = false;
        this.all.places.set(address, this.all.places.get(address)! - 1);
      }
    };
  }

  /** Places taken, of each address. */
  places(): number[] {
    return [...this.all.places.values()];
  }

  async bury(): Promise<void> {}

  async liveNodes(): Promise<string[]> {
    return [...this.all.nodes.keys()];
  }

  async start(): Promise<void> {}
  async stop(): Promise<void> {}
}
