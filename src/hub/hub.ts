import type { Logger } from '../base/logger.js';
import { type Availability, type Subscribing, streamChannel } from '../broker/broker.js';
import { TaskwireError } from '../protocol/errors.js';
import { type CatchUpPorts, catchUp } from './catch-up.js';
import type { Connection } from './connection.js';
import { type ClientPorts, HubClient } from './hub-client.js';
import { type HubLog, LogReader, type LogReaderOptions } from './log-reader.js';
import type { Membership } from './membership.js';
import { RingBudget } from './ring.js';
import { Stream, type StreamCounters, type StreamPorts } from './stream.js';

export interface HubOptions extends LogReaderOptions {
  readonly RING_EVENTS: number;
  readonly RING_BYTES: number;
  readonly RECONCILE_MS: number;
  readonly RECONCILE_IDLE_MS: number;
  readonly MAX_BUFFERED_BYTES: number;
  readonly POSITION_INTERVAL_MS: number;
}

/** How long a stream is followed after its last member left: clients that come back find its ring. */
const LINGER_MS = 30_000;
const SWEEP_MS = 5_000;
/** How long a replay waits for a connection to take what it was sent. */
const DRAIN_PATIENCE_MS = 30_000;

/**
 * The rooms of one worker: follows the streams that its connections need, keeps each in order, and repairs from the log
 * what the broker lost. Knows no transport and no SQL.
 */
export class Hub {
  readonly counters: StreamCounters = { events: 0, deliveries: 0, duplicates: 0, repairs: 0, resets: 0 };
  private readonly clients = new Set<HubClient>();
  private readonly streams = new Map<string, Stream>();
  private readonly log: LogReader;
  private readonly budget: RingBudget;
  private reconcileTimer: NodeJS.Timeout | undefined;
  private sweepTimer: NodeJS.Timeout | undefined;
  private running = false;
  private reconciling = false;
  private reconcileAgain = false;

  constructor(
    private readonly broker: Subscribing & Availability,
    log: HubLog,
    private readonly options: HubOptions,
    private readonly logger: Logger,
  ) {
    this.log = new LogReader(log, options);
    this.catchUpPorts = { log: this.log, drained: (membership) => this.drained(membership) };
    this.budget = new RingBudget(options.RING_BYTES);
    // Whatever was published before a reconnect may have been missed, and while the broker is away all of it is.
    broker.onUp(() => this.scheduleReconcile(0));
    broker.onDown(() => this.scheduleReconcile(0));
  }

  start(): void {
    this.running = true;
    this.scheduleReconcile();
    this.sweepTimer = setInterval(() => this.sweep(), SWEEP_MS);
  }

  async stop(): Promise<void> {
    this.running = false;
    clearTimeout(this.reconcileTimer);
    clearInterval(this.sweepTimer);
    for (const stream of this.streams.values()) {
      stream.stop();
    }
    const channels = [...this.streams.keys()].map(streamChannel);
    this.streams.clear();
    await Promise.allSettled(channels.map((channel) => this.broker.unsubscribe(channel)));
  }

  connect(connection: Connection): HubClient {
    const client = new HubClient(connection, this.clientPorts);
    this.clients.add(client);
    return client;
  }

  /** Connections of this worker, and the members of each room. */
  report(): { clients: number; rooms: Map<string, number> } {
    const rooms = new Map<string, number>();
    for (const stream of this.streams.values()) {
      for (const entry of stream.rooms()) {
        rooms.set(entry.room.name, entry.members.size);
      }
    }
    return { clients: this.clients.size, rooms };
  }

  get streamCount(): number {
    return this.streams.size;
  }

  /** Compares all followed streams with the log, now. */
  async reconcile(): Promise<void> {
    const lastThen = new Map<string, number>();
    for (const [userId, stream] of this.streams) {
      lastThen.set(userId, stream.last);
    }
    await this.log.heads.readMany([...lastThen.keys()], (userId, head) => {
      this.streams.get(userId)?.observeHead(head, lastThen.get(userId)!);
    });
  }

  private scheduleReconcile(delay?: number): void {
    if (!this.running) {
      return;
    }
    if (this.reconciling) {
      this.reconcileAgain ||= delay === 0;
      return;
    }
    clearTimeout(this.reconcileTimer);
    const interval = this.broker.up ? this.options.RECONCILE_IDLE_MS : this.options.RECONCILE_MS;
    // Workers that started together must not ask together.
    const jittered = interval * (0.8 + Math.random() * 0.2);
    this.reconcileTimer = setTimeout(() => void this.reconcileInTurn(), delay ?? jittered);
  }

  private async reconcileInTurn(): Promise<void> {
    this.reconciling = true;
    this.reconcileAgain = false;
    try {
      await this.reconcile();
    } catch (error) {
      this.logger.warn('reconcile failed', { error });
    }
    this.reconciling = false;
    this.scheduleReconcile(this.reconcileAgain ? 0 : undefined);
  }

  private follow(userId: string): Stream {
    let stream = this.streams.get(userId);
    if (stream === undefined) {
      stream = new Stream(userId, this.streamPorts, {
        ringEvents: this.options.RING_EVENTS,
        ringBudget: this.budget,
      });
      this.streams.set(userId, stream);
      stream.ready = this.startStream(stream);
      // Whoever joins waits for it and is told; here nobody does.
      stream.ready.catch(() => {});
    }
    stream.idleSince = undefined;
    return stream;
  }

  /** Channel first, head second: what is published between the two arrives, what came before is in the head. */
  private async startStream(stream: Stream): Promise<void> {
    const { userId } = stream;
    try {
      await this.broker.subscribe(streamChannel(userId), (batch) => stream.receive(batch));
      const head = await this.log.heads.read(userId);
      if (head === undefined) {
        throw new TaskwireError('NOT_FOUND');
      }
      stream.start(head);
      this.logger.debug('stream followed', { user: userId, seq: head.seq });
    } catch (error) {
      if (this.streams.get(userId) === stream) {
        this.unfollow(stream);
      }
      throw error;
    }
  }

  private unfollow(stream: Stream): void {
    stream.stop();
    this.streams.delete(stream.userId);
    this.broker.unsubscribe(streamChannel(stream.userId)).catch((error) => {
      this.logger.warn('unsubscribe failed', { user: stream.userId, error });
    });
  }

  private readonly clientPorts: ClientPorts = {
    join: (membership) => this.work(membership),
    follow: (userId) => this.follow(userId),
    forget: (client) => this.clients.delete(client),
  };

  private readonly streamPorts: StreamPorts = {
    read: (userId, after) => this.log.missing(userId, after),
    onReset: (members) => {
      for (const member of [...members]) {
        member.connection.close('STREAM_RESET');
      }
    },
    onRepairFailed: (userId, error) => this.logger.warn('gap not repaired yet', { user: userId, error }),
    counters: this.counters,
  };

  private readonly catchUpPorts: CatchUpPorts;

  private async drained(membership: Membership): Promise<void> {
    const { connection } = membership;
    const start = Date.now();
    while (connection.backlog > this.options.MAX_BUFFERED_BYTES / 4 && !membership.closed) {
      if (Date.now() - start > DRAIN_PATIENCE_MS) {
        connection.close('SLOW_CONSUMER');
        return;
      }
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }

  /** Serves the joins of one membership, all that wait at a time, so that rooms asked for together are one replay. */
  private async work(membership: Membership): Promise<void> {
    if (membership.catchingUp) {
      return;
    }
    membership.catchingUp = true;
    // What is joined in one turn belongs together.
    await Promise.resolve();
    while (membership.joins.length > 0 && !membership.closed) {
      const joins = membership.joins;
      membership.joins = [];
      const refusal = await catchUp(membership, joins, this.catchUpPorts);
      if (refusal?.code === 'INTERNAL_ERROR') {
        this.logger.error('subscription failed', { user: membership.stream.userId, error: refusal });
      }
    }
    membership.catchingUp = false;
  }

  private sweep(): void {
    const now = Date.now();
    for (const stream of this.streams.values()) {
      if (stream.members.size > 0) {
        stream.idleSince = undefined;
      } else {
        stream.idleSince ??= now;
        if (now - stream.idleSince >= LINGER_MS) {
          this.unfollow(stream);
        }
      }
    }
    for (const client of this.clients) {
      client.tellPositions(now, this.options.POSITION_INTERVAL_MS);
    }
  }
}
