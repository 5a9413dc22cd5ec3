import { randomUUID } from 'node:crypto';
import type { Logger } from '../base/logger.js';
import { SingleFlight } from '../base/single-flight.js';
import type { Availability, Nodes, PubSub } from '../broker/broker.js';
import { type ControlBus, parseObject } from '../broker/control-bus.js';
import { RoomSketch } from './room-sketch.js';

/** What a worker counts of messages, from its start on: of its hub, and of its publisher. */
export const MESSAGE_COUNTS = [
  'events',
  'deliveries',
  'duplicates',
  'repairs',
  'captured',
  'resets',
  'published',
  'failed',
] as const;
export type MessageCount = (typeof MESSAGE_COUNTS)[number];
export type MessageCounts = Readonly<Record<MessageCount, number>>;

/** What a worker knows of itself. */
export interface LocalReport {
  readonly clients: number;
  /** Members of each room. */
  readonly rooms: ReadonlyMap<string, number>;
  readonly messages: MessageCounts;
}

export interface ClusterReport {
  readonly clients: number;
  /** Number of different rooms; an estimate when a worker has more than some thousands and they were not asked for by name. */
  readonly totalRooms: number;
  /** Members of each room, largest first; empty unless asked for. */
  readonly rooms: ReadonlyMap<string, number>;
  /** Whether small rooms are missing from `rooms`. */
  readonly roomsTruncated: boolean;
  /** Sums of what the workers in the report have counted. */
  readonly messages: MessageCounts;
  /** The same of each of them, by the id of its node. */
  readonly messagesByNode: ReadonlyMap<string, MessageCounts>;
  /** Workers whose numbers are in the report. */
  readonly nodes: number;
  /** Whether a worker did not answer in time. */
  readonly partial: boolean;
}

export interface ReportQuery {
  /** Whether rooms are wanted by name. */
  readonly rooms: boolean;
  /** Only this one of them. */
  readonly room?: string | undefined;
}

export interface ClusterStatsOptions {
  readonly broker: PubSub & Nodes & Pick<Availability, 'up'>;
  readonly bus: Pick<ControlBus, 'on' | 'send'>;
  readonly report: () => LocalReport;
  readonly logger: Logger;
  /** How long the other workers have for their answers, in milliseconds (1,000). */
  readonly patienceMs?: number;
}

/** What one worker answers. */
interface Share {
  readonly clients: number;
  readonly rooms: ReadonlyMap<string, number>;
  /** Whether `rooms` are all that were asked for. */
  readonly complete: boolean;
  readonly sketch: RoomSketch;
  readonly messages: MessageCounts;
}

interface Gathering {
  readonly shares: Map<string, Share>;
  arrived(): void;
}

/** Rooms by name in one answer of a worker: the largest. */
const MAX_NAMES = 50_000;

/**
 * Statistics of the whole cluster: asks all workers through the broker and adds up what they answer. A worker that does
 * not answer in time is left out and the report says `partial`; without the broker it is of this worker alone.
 */
export class ClusterStats {
  private readonly flights = new SingleFlight<ClusterReport>();
  private readonly gatherings = new Map<string, Gathering>();
  private readonly channel: string;
  private readonly patienceMs: number;

  constructor(private readonly options: ClusterStatsOptions) {
    this.channel = `node:${options.broker.nodeId}`;
    this.patienceMs = options.patienceMs ?? 1_000;
    options.bus.on('stats', (request) => this.answer(request));
  }

  /** Begins to hear answers; the bus must be started too, to hear questions. */
  start(): Promise<void> {
    return this.options.broker.subscribe(this.channel, (batch) => {
      for (const bytes of batch) {
        this.receive(bytes);
      }
    });
  }

  stop(): Promise<void> {
    return this.options.broker.unsubscribe(this.channel);
  }

  /** Asks the cluster; equal questions at one time are one. Never rejects and never takes much longer than a second. */
  collect(query: ReportQuery): Promise<ClusterReport> {
    return this.flights.run(`${query.rooms} ${query.room ?? ''}`, () => this.gather(query));
  }

  private async gather(query: ReportQuery): Promise<ClusterReport> {
    const { broker, bus, report, logger } = this.options;
    const own = shareOf(report(), query);
    if (!broker.up) {
      return total(new Map([[broker.nodeId, own]]), query, true);
    }
    const id = randomUUID();
    const shares = new Map([[broker.nodeId, own]]);
    let missing: readonly string[] | undefined;
    let timer: NodeJS.Timeout | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        timer = setTimeout(resolve, this.patienceMs);
        const arrived = (): void => {
          if (missing?.every((node) => shares.has(node))) {
            resolve();
          }
        };
        this.gatherings.set(id, { shares, arrived });
        bus.send('stats', { id, replyTo: this.channel, ...query }).catch(reject);
        broker.liveNodes().then((nodes) => {
          // This worker is not in the list: leases cannot be renewed, so others may be missing too.
          missing = nodes.includes(broker.nodeId) ? nodes : undefined;
          arrived();
        }, reject);
      });
    } catch (error) {
      logger.warn('statistics of other workers not available', { error });
    } finally {
      clearTimeout(timer);
      this.gatherings.delete(id);
    }
    const partial = missing === undefined || !missing.every((node) => shares.has(node));
    return total(shares, query, partial);
  }

  /** Answers another worker's question. */
  private async answer({ id, replyTo, rooms, room }: Readonly<Record<string, unknown>>): Promise<void> {
    const { broker, report, logger } = this.options;
    if (typeof id !== 'string' || typeof replyTo !== 'string' || replyTo === this.channel) {
      return;
    }
    const query = { rooms: rooms === true, room: typeof room === 'string' ? room : undefined };
    const share = shareOf(report(), query);
    const answer = {
      id,
      node: broker.nodeId,
      clients: share.clients,
      rooms: [...share.rooms],
      complete: share.complete,
      sketch: share.sketch.encode(),
      messages: share.messages,
    };
    try {
      await broker.publish(replyTo, Buffer.from(JSON.stringify(answer)));
    } catch (error) {
      logger.debug('question about statistics not answered', { error });
    }
  }

  private receive(bytes: Buffer): void {
    const answer = parseObject(bytes) ?? {};
    const { id, node, clients, rooms, complete } = answer;
    const gathering = this.gatherings.get(id as string);
    if (typeof id === 'string' && gathering === undefined) {
      // It is too late, or answers a question of an earlier process.
      return;
    }
    const sketch = RoomSketch.decode(answer['sketch']);
    const whole = gathering !== undefined && sketch !== undefined;
    if (!whole || typeof node !== 'string' || !isCount(clients) || !isCounts(rooms)) {
      this.options.logger.warn('answer about statistics not understood', { node, bytes: bytes.length });
      return;
    }
    const counts = new Map(rooms);
    const messages = countsOf(answer['messages']);
    gathering.shares.set(node, { clients, rooms: counts, complete: complete === true, sketch, messages });
    gathering.arrived();
  }
}

/** A number of JSON may be read as infinity. */
const isCount = (value: unknown): value is number => Number.isFinite(value);

const isCounts = (value: unknown): value is Array<[string, number]> =>
  Array.isArray(value) && value.every((pair) => Array.isArray(pair) && typeof pair[0] === 'string' && isCount(pair[1]));

const largestFirst = ([, a]: readonly [string, number], [, b]: readonly [string, number]): number => b - a;

/** Counts of an answer; what a worker of another version does not count is 0. */
function countsOf(value: unknown): MessageCounts {
  const given = (typeof value === 'object' && value !== null ? value : {}) as Readonly<Record<string, unknown>>;
  return countEach((count) => {
    const counted = given[count];
    return isCount(counted) ? counted : 0;
  });
}

const countEach = (value: (count: MessageCount) => number): MessageCounts =>
  Object.fromEntries(MESSAGE_COUNTS.map((count) => [count, value(count)])) as MessageCounts;

function shareOf({ clients, rooms, messages }: LocalReport, { rooms: named, room }: ReportQuery): Share {
  const sketch = RoomSketch.of(rooms.keys());
  if (!named) {
    return { clients, rooms: new Map(), complete: rooms.size === 0, sketch, messages };
  }
  if (room !== undefined) {
    const members = rooms.get(room);
    return {
      clients,
      rooms: new Map(members === undefined ? [] : [[room, members]]),
      complete: true,
      sketch,
      messages,
    };
  }
  const complete = rooms.size <= MAX_NAMES;
  return {
    clients,
    rooms: complete ? rooms : new Map([...rooms].sort(largestFirst).slice(0, MAX_NAMES)),
    complete,
    sketch,
    messages,
  };
}

function total(byNode: ReadonlyMap<string, Share>, query: ReportQuery, partial: boolean): ClusterReport {
  const shares = [...byNode.values()];
  const rooms = new Map<string, number>();
  for (const share of shares) {
    for (const [name, members] of share.rooms) {
      rooms.set(name, (rooms.get(name) ?? 0) + members);
    }
  }
  const complete = shares.every((share) => share.complete);
  const allNamed = query.rooms && query.room === undefined && complete;
  return {
    clients: shares.reduce((sum, { clients }) => sum + clients, 0),
    totalRooms: allNamed ? rooms.size : RoomSketch.merge(shares.map(({ sketch }) => sketch)).count,
    rooms: new Map([...rooms].sort(largestFirst)),
    roomsTruncated: query.rooms && !complete,
    messages: countEach((count) => shares.reduce((sum, { messages }) => sum + messages[count], 0)),
    messagesByNode: new Map([...byNode].map(([node, { messages }]) => [node, messages])),
    nodes: shares.length,
    partial,
  };
}
