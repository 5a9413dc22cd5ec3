import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from '../base/logger.js';
import { type Availability, type Subscribing, streamChannel } from '../broker/broker.js';
import { TaskwireError } from '../protocol/errors.js';
import type { Position } from '../protocol/messages.js';
import type { RoomOwner } from '../repository/log.js';
import type { Connection } from './connection.js';
import { type ClientPorts, HubClient } from './hub-client.js';
import type { Clock } from './line.js';
import { type HubLog, LogReader, type LogReaderOptions } from './log-reader.js';
import { RingBudget } from './ring.js';
import { Stream, type StreamCounters, type StreamPorts } from './stream.js';

export interface HubOptions extends LogReaderOptions {
  readonly RING_EVENTS: number;
  readonly RING_BYTES: number;
  readonly RECONCILE_MS: number;
  readonly RECONCILE_IDLE_MS: number;
  readonly MAX_BUFFERED_BYTES: number;
  readonly SLOW_CONSUMER_MS: number;
  readonly POSITION_INTERVAL_MS: number;
}

/** How long a stream is followed after its last member left: clients that come back find its ring. */
const LINGER_MS = 30_000;
const SWEEP_MS = 5_000;
/** How long streams that began at a head from before gather until they are compared with the log together. */
const PROVE_MS = 100;
/** After how long that is tried again when the log could not be read. */
const PROVE_AGAIN_MS = 1_000;

const SYSTEM_CLOCK: Clock = { now: () => performance.now(), sleep };

/**
 * The rooms of one worker. It follows the streams of its connections, keeps each in order, and reads what the broker has
 * lost from the log. It knows no transport and no SQL.
 */
export class Hub {
  readonly counters: StreamCounters = { events: 0, deliveries: 0, duplicates: 0, repairs: 0, captured: 0, resets: 0 };
  private readonly clients = new Set<HubClient>();
  private readonly streams = new Map<string, Stream>();
  private readonly log: LogReader;
  private readonly budget: RingBudget;
  private readonly clientPorts: ClientPorts;
  /** Users whose streams began at a head that was read before their messages came. */
  private readonly unproven = new Set<string>();
  private proofTimer: NodeJS.Timeout | undefined;
  private reconcileTimer: NodeJS.Timeout | undefined;
  private sweepTimer: NodeJS.Timeout | undefined;
  private running = false;
  private reconciling = false;
  private reconcileAgain = false;
  private hears = false;

  constructor(
    private readonly broker: Subscribing & Availability,
    log: HubLog,
    private readonly options: HubOptions,
    private readonly logger: Logger,
    private readonly clock: Clock = SYSTEM_CLOCK,
  ) {
    this.log = new LogReader(log, options);
    this.clientPorts = {
      log: this.log,
      line: { clearBytes: options.MAX_BUFFERED_BYTES / 4, stallMs: options.SLOW_CONSUMER_MS, clock },
      follow: (owner) => this.follow(owner),
      forget: (client) => this.clients.delete(client),
      onError: ({ stream }, error) => this.logger.error('subscription failed', { user: stream.userId, error }),
    };
    this.budget = new RingBudget(options.RING_BYTES);
    // Messages may have been missed before a reconnect. While the broker is away, all are missed.
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
    clearTimeout(this.proofTimer);
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
      for (const [name, members] of stream.rooms.counts()) {
        rooms.set(name, members);
      }
    }
    return { clients: this.clients.size, rooms };
  }

  get streamCount(): number {
    return this.streams.size;
  }

  /** Compares all followed streams with the log, now. */
  async reconcile(): Promise<void> {
    await this.compare(this.streams.keys());
  }

  /** Compares the streams of some users with the log, as far as they are followed. */
  private async compare(users: Iterable<string>): Promise<void> {
    const lastThen = new Map<string, number>();
    for (const userId of users) {
      const stream = this.streams.get(userId);
      if (stream !== undefined) {
        lastThen.set(userId, stream.last);
      }
    }
    await this.log.heads.readMany([...lastThen.keys()], (userId, head) => {
      this.streams.get(userId)?.observeHead(head, lastThen.get(userId)!, this.broker.up);
    });
  }

  /** Whether the database announces events that nobody publishes (`look`). Otherwise the log is checked more often. */
  set listening(listening: boolean) {
    if (listening !== this.hears) {
      this.hears = listening;
      this.scheduleReconcile();
    }
  }

  /**
   * Checks the log for events that nobody publishes.
   * @param userId whose; undefined: those of all followed streams
   */
  async look(userId: string | undefined): Promise<void> {
    if (userId === undefined) {
      this.scheduleReconcile(0);
      return;
    }
    const stream = this.streams.get(userId);
    if (stream === undefined) {
      return;
    }
    const lastThen = stream.last;
    try {
      const head = await this.log.heads.read(userId);
      if (head !== undefined && this.streams.get(userId) === stream) {
        stream.observeHead(head, lastThen, this.broker.up);
      }
    } catch (error) {
      this.logger.warn('the log could not be looked at', { user: userId, error });
    }
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
    const { RECONCILE_MS, RECONCILE_IDLE_MS } = this.options;
    const interval = this.broker.up && this.hears ? RECONCILE_IDLE_MS : RECONCILE_MS;
    // A random part less, so that workers that started together do not ask together.
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

  private follow({ userId, head }: RoomOwner): Stream {
    let stream = this.streams.get(userId);
    if (stream === undefined) {
      const limits = { ringEvents: this.options.RING_EVENTS, ringBudget: this.budget };
      stream = new Stream(userId, this.streamPorts, limits, head);
      this.streams.set(userId, stream);
    }
    return stream;
  }

  private async open(stream: Stream, known: Position | undefined): Promise<Position> {
    const { userId } = stream;
    try {
      await this.broker.subscribe(streamChannel(userId), (batch) => stream.receive(batch));
      if (known !== undefined) {
        this.proveSoon([userId], PROVE_MS);
      }
      const head = known ?? (await this.log.heads.read(userId));
      if (head === undefined) {
        throw new TaskwireError('NOT_FOUND');
      }
      this.logger.debug('stream followed', { user: userId, seq: head.seq });
      return head;
    } catch (error) {
      if (this.streams.get(userId) === stream) {
        this.unfollow(stream);
      }
      throw error;
    }
  }

  /**
   * Compares streams with the log in `ms` milliseconds, together: a look at each one's head would be a query each. What
   * happened between the look-up of an owner and the stream's first message arrives then, or when a later message shows it.
   */
  private proveSoon(users: readonly string[], ms: number): void {
    for (const userId of users) {
      this.unproven.add(userId);
    }
    this.proofTimer ??= setTimeout(() => void this.prove(), ms);
  }

  private async prove(): Promise<void> {
    const users = [...this.unproven];
    this.unproven.clear();
    this.proofTimer = undefined;
    try {
      await this.compare(users);
    } catch (error) {
      this.logger.warn('streams could not be compared with the log yet', { streams: users.length, error });
      if (this.running) {
        this.proveSoon(users, PROVE_AGAIN_MS);
      }
    }
  }

  private unfollow(stream: Stream): void {
    stream.stop();
    this.streams.delete(stream.userId);
    this.broker.unsubscribe(streamChannel(stream.userId)).catch((error) => {
      this.logger.warn('unsubscribe failed', { user: stream.userId, error });
    });
  }

  private readonly streamPorts: StreamPorts = {
    open: (stream, known) => this.open(stream, known),
    read: (userId, after) => this.log.missing(userId, after),
    onRepairFailed: (userId, error) => this.logger.warn('gap not repaired yet', { user: userId, error }),
    counters: this.counters,
  };

  private sweep(): void {
    const now = this.clock.now();
    for (const stream of this.streams.values()) {
      if (stream.idleFor(now) >= LINGER_MS) {
        this.unfollow(stream);
      }
    }
    for (const client of this.clients) {
      client.tellPositions(now, this.options.POSITION_INTERVAL_MS);
    }
  }
}
