import type { Logger } from '../../base/logger.js';
import type { ToPrimary, WorkerChannel } from '../../base/process-messages.js';
import { TurnBatch } from '../../base/turn-batch.js';
import type { Broker, ChannelListener, RateLimitResult } from '../broker.js';
import { BrokerNode } from '../broker-node.js';

type Call = Extract<ToPrimary, { call: number }>;
type WithoutCall<T> = T extends { call: number } ? Omit<T, 'call'> : never;

/** The broker of one host without Redis: workers are joined through the primary (`LocalPrimary`). */
export class LocalBroker extends BrokerNode implements Broker {
  private readonly calls = new Map<number, { resolve(result: unknown): void; reject(error: Error): void }>();
  private lastCall = 0;
  /** Messages to publish. When the primary is gone they are lost, and the hubs find the events in the log. */
  private readonly outgoing = new TurnBatch<[string, Buffer]>((items) =>
    this.tell({ type: 'taskwire:publish', items }),
  );

  /**
   * @param link to the primary
   * @param adapter makes the Socket.IO adapter that fits the link; undefined: Socket.IO's own, for one process
   */
  constructor(
    private readonly link: WorkerChannel,
    private readonly adapter: () => unknown,
    logger: Pick<Logger, 'error' | 'warn' | 'info'>,
  ) {
    super(logger);
    link.onMessage((message) => {
      if (message.type === 'taskwire:messages') {
        for (const [channel, bytes] of message.items) {
          this.channels.take(channel, Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
        }
      } else if (message.type === 'taskwire:answer') {
        this.calls.get(message.call)?.resolve(message.result);
        this.calls.delete(message.call);
      }
    });
    link.onClose(() => {
      this.condition.loseAll({ code: 'PRIMARY_GONE', reason: 'the primary is gone' });
      for (const { reject } of this.calls.values()) {
        reject(new Error('the primary is gone'));
      }
      this.calls.clear();
    });
  }

  async publish(channel: string, message: Buffer): Promise<void> {
    if (!this.condition.up) {
      throw new Error('the broker is down');
    }
    this.outgoing.add([channel, message]);
  }

  async subscribe(channel: string, listener: ChannelListener): Promise<void> {
    this.channels.set(channel, listener);
    await this.call({ type: 'taskwire:subscribe', channel }).catch(() => {});
  }

  async unsubscribe(channel: string): Promise<void> {
    this.channels.delete(channel);
    await this.call({ type: 'taskwire:unsubscribe', channel }).catch(() => {});
  }

  socketAdapter(): unknown {
    return this.adapter();
  }

  async consume(key: string, limit: number, requests = 1): Promise<RateLimitResult> {
    return (await this.call({ type: 'taskwire:consume', key, limit, requests })) as RateLimitResult;
  }

  async acquireConnection(address: string, limit: number): Promise<(() => void) | undefined> {
    if (!(await this.call({ type: 'taskwire:acquire', address, limit }))) {
      return undefined;
    }
    let held = true;
    return () => {
      if (held) {
        held = false;
        this.tell({ type: 'taskwire:release', address });
      }
    };
  }

  async liveNodes(): Promise<string[]> {
    return (await this.call({ type: 'taskwire:nodes' })) as string[];
  }

  async bury(): Promise<void> {
    // The primary has seen the end of its channel.
  }

  async start(): Promise<void> {
    this.tell({ type: 'taskwire:hello', nodeId: this.nodeId });
    this.condition.regainAll();
  }

  async stop(): Promise<void> {
    this.tell({ type: 'taskwire:bye' });
    this.condition.end();
  }

  private tell(message: ToPrimary): void {
    try {
      this.link.send(message);
    } catch {
      // The primary is gone, and with it everything that this process held there.
    }
  }

  private call(message: WithoutCall<Call>): Promise<unknown> {
    this.lastCall += 1;
    const call = this.lastCall;
    return new Promise((resolve, reject) => {
      this.calls.set(call, { resolve, reject });
      try {
        this.link.send({ ...message, call } as Call);
      } catch (error) {
        this.calls.delete(call);
        reject(error as Error);
      }
    });
  }
}
