import { type Broker, streamChannel } from '../broker/broker.js';
import type { Logger } from '../logger.js';
import { TaskwireError } from '../protocol/errors.js';
import { controlText, type Position, snapshotText } from '../protocol/messages.js';
import type { Room } from '../protocol/rooms.js';
import { streamMessageOf } from '../protocol/stream-message.js';
import type { ReplayPage, ReplayQuery, ReplayState, Snapshot } from '../repository/log.js';
import { SingleFlight } from '../single-flight.js';
import { TurnReader } from '../turn-reader.js';
import type { Connection } from './client.js';
import { type CatchUpPorts, catchUp, type RoomSnapshot } from './join.js';
import { type Join, Membership } from './membership.js';
import { RingBudget } from './ring.js';
import { type EventPage, Stream, type StreamCounters, type StreamPorts } from './stream.js';
import { Turns } from './turns.js';

/** What the hub asks of the event log; a database that is away shows as a rejection. */
export interface HubLog {
  heads(userIds: readonly string[]): Promise<ReadonlyMap<string, Position>>;
  read(query: ReplayQuery): Promise<ReplayPage>;
  state(userId: string): Promise<ReplayState | undefined>;
  snapshot(room: Room, limit: number, bytes: number): Promise<Snapshot | undefined>;
}

export interface HubOptions {
  readonly RING_EVENTS: number;
  readonly RING_BYTES: number;
  readonly RECONCILE_MS: number;
  readonly RECONCILE_IDLE_MS: number;
  readonly REPLAY_PAGE: number;
  readonly REPLAY_CONCURRENCY: number;
  readonly MAX_SNAPSHOT_TASKS: number;
  readonly MAX_SNAPSHOT_BYTES: number;
  readonly MAX_BUFFERED_BYTES: number;
  readonly POSITION_INTERVAL_MS: number;
}

/** How long a stream is followed after its last member left: clients that come back find its ring. */
const LINGER_MS = 30_000;
const SWEEP_MS = 5_000;
/** Events that one read brings a stream that misses some. */
const REPAIR_PAGE = 1_000;
/** How long a replay waits for a connection to take what it was sent. */
const DRAIN_PATIENCE_MS = 30_000;

const SNAPSHOT_TYPES = { job: 'JOB_TASKS_SNAPSHOT', task: 'TASK_SNAPSHOT', user: 'USER_TASKS_SNAPSHOT' } as const;

/**
 * The rooms of one worker: follows the streams that its connections need, keeps each in order, and repairs from the log
 * what the broker lost. Knows no transport and no SQL.
 */
export class Hub {
  readonly counters: StreamCounters = { events: 0, deliveries: 0, duplicates: 0, repairs: 0, resets: 0 };
  private readonly clients = new Set<HubClient>();
  private readonly streams = new Map<string, Stream>();
  private readonly heads: TurnReader<Position>;
  private readonly turns: Turns;
  /** Connections that are live do not wait for those that come back. */
  private readonly repairTurns: Turns;
  private readonly budget: RingBudget;
  private readonly reads = new SingleFlight<EventPage>();
  private readonly states = new SingleFlight<ReplayState>();
  private readonly snapshots = new SingleFlight<RoomSnapshot>();
  private reconcileTimer: NodeJS.Timeout | undefined;
  private sweepTimer: NodeJS.Timeout | undefined;
  private running = false;
  private reconciling = false;
  private reconcileAgain = false;

  constructor(
    private readonly broker: Pick<Broker, 'subscribe' | 'unsubscribe' | 'up' | 'onUp' | 'onDown'>,
    private readonly log: HubLog,
    private readonly options: HubOptions,
    private readonly logger: Logger,
  ) {
    this.heads = new TurnReader((userIds) => log.heads(userIds));
    this.turns = new Turns(options.REPLAY_CONCURRENCY);
    this.repairTurns = new Turns(options.REPLAY_CONCURRENCY);
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
    await this.heads.readMany([...lastThen.keys()], (userId, head) => {
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
      const head = await this.heads.read(userId);
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
    read: (userId, after) =>
      this.repairTurns.run(() =>
        this.page({ userId, rooms: [{ kind: 'user', id: userId, after }], limit: REPAIR_PAGE }),
      ),
    onReset: (members) => {
      for (const member of [...members]) {
        member.connection.close('STREAM_RESET');
      }
    },
    onRepairFailed: (userId, error) => this.logger.warn('gap not repaired yet', { user: userId, error }),
    counters: this.counters,
  };

  private async page(query: ReplayQuery): Promise<EventPage> {
    const page = await this.log.read(query);
    return { ...page, events: page.events.map(streamMessageOf) };
  }

  private read(query: ReplayQuery): Promise<EventPage> {
    const rooms = query.rooms.map(({ kind, id, after }) => `${kind}:${id} ${after}`).join(',');
    return this.reads.run(`${query.userId} ${query.limit} ${rooms}`, () => this.turns.run(() => this.page(query)));
  }

  private readonly catchUpPorts: CatchUpPorts = {
    started: ({ stream }) => stream.ready,
    read: (query) => this.read(query),
    state: (userId) =>
      this.states.run(userId, async () => {
        const state = await this.turns.run(() => this.log.state(userId));
        if (state === undefined) {
          throw new TaskwireError('NOT_FOUND');
        }
        return state;
      }),
    snapshot: (room) => this.snapshots.run(room.name, () => this.turns.run(() => this.snapshot(room))),
    drained: (membership) => this.drained(membership),
    replayPage: () => this.options.REPLAY_PAGE,
  };

  private async snapshot(room: Room): Promise<RoomSnapshot> {
    const snapshot = await this.log.snapshot(room, this.options.MAX_SNAPSHOT_TASKS, this.options.MAX_SNAPSHOT_BYTES);
    if (snapshot === undefined) {
      throw new TaskwireError('NOT_FOUND');
    }
    const { seq, epoch, userId, tasks, truncated } = snapshot;
    const type = SNAPSHOT_TYPES[room.kind];
    const payload = Buffer.from(
      snapshotText(type, {
        ids: {
          ...(room.kind === 'job' ? { job_id: room.id } : room.kind === 'task' ? { task_id: Number(room.id) } : {}),
          user_id: userId,
          ...(truncated ? { truncated } : {}),
        },
        tasks,
        position: { seq, epoch },
      }),
    );
    return { seq, epoch, message: { type, payload } };
  }

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

/** What a client asks of its hub. */
interface ClientPorts {
  join(membership: Membership): Promise<void>;
  follow(userId: string): Stream;
  forget(client: HubClient): void;
}

/** One connection in the hub: its memberships, at most one a stream. */
export class HubClient {
  private memberships: readonly Membership[] = [];
  private toldAt = Date.now();
  private closed = false;

  constructor(
    private readonly connection: Connection,
    private readonly ports: ClientPorts,
  ) {}

  /** Rooms that the connection has joined. */
  get roomCount(): number {
    return this.memberships.reduce((sum, { places }) => sum + places.length, 0);
  }

  /** Whether the connection has joined a room. */
  has(room: Room): boolean {
    return this.memberships.some(({ places }) => places.some(({ entry }) => entry.room.name === room.name));
  }

  /** Joins a room of `owner`'s stream; the join's reply is called when that is done or has failed. */
  join(owner: string, join: Join): void {
    if (this.closed) {
      return;
    }
    let membership = this.memberships.find(({ stream }) => stream.userId === owner);
    if (membership === undefined || membership.closed) {
      membership = new Membership(this.connection, this.ports.follow(owner));
      membership.stream.members.add(membership);
      this.memberships = [...this.memberships, membership];
    }
    membership.joins.push(join);
    const joining = membership;
    void this.ports.join(joining).then(() => this.drop(joining));
  }

  /** Leaves a room that was joined; no event of it is delivered afterwards. */
  leave(room: Room): boolean {
    for (const membership of this.memberships) {
      if (membership.leave(room)) {
        this.drop(membership);
        return true;
      }
    }
    return false;
  }

  /** Where the connection stands in each of its rooms. */
  positions(): Array<{ room: string } & Position> {
    const positions: Array<{ room: string } & Position> = [];
    for (const membership of this.memberships) {
      if (!membership.held) {
        membership.told = membership.position;
        for (const { entry } of membership.places) {
          positions.push({ room: entry.room.name, seq: membership.told, epoch: membership.stream.epoch });
        }
      }
    }
    this.toldAt = Date.now();
    return positions;
  }

  /** Brings the positions of a client that does not ask forward, so that quiet rooms do not fall out of the log. */
  tellPositions(now: number, interval: number): void {
    if (now - this.toldAt < interval) {
      return;
    }
    const moved = this.memberships.some((membership) => !membership.held && membership.position > membership.told);
    this.toldAt = now;
    if (moved) {
      const payload = Buffer.from(controlText('POSITION', { positions: this.positions() }));
      this.connection.deliver({ type: 'POSITION', payload });
    }
  }

  close(): void {
    this.closed = true;
    for (const membership of this.memberships) {
      membership.leaveAll();
      membership.stream.members.delete(membership);
    }
    this.memberships = [];
    this.ports.forget(this);
  }

  /** Forgets a membership without rooms. */
  private drop(membership: Membership): void {
    if (membership.places.length === 0 && membership.joins.length === 0 && !membership.catchingUp) {
      membership.closed = true;
      membership.stream.members.delete(membership);
      this.memberships = this.memberships.filter((other) => other !== membership);
    }
  }
}
