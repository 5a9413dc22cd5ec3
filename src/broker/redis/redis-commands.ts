import { Cluster, type Redis } from 'ioredis';
import { TurnBatch } from '../../base/turn-batch.js';
import type { Fault } from '../condition.js';
import { ConnectionTrouble } from './connection-trouble.js';
import {
  CONNECTION_OPTIONS,
  leave,
  leaveWhenSilent,
  reconnectDelay,
  redisClient,
  writeOnceATurn,
} from './redis-client.js';
import { garbled } from './redis-faults.js';
import type { Target } from './redis-settings.js';
import { guardReplies } from './reply-guard.js';

/** The connection, or on a cluster the connections, by which this process publishes and runs scripts. */
export class RedisCommands {
  /** For scripts. On a cluster it finds the node of their keys, and follows keys that move. */
  readonly client: Redis | Cluster;
  /** The same when there are several servers. */
  readonly cluster: Cluster | undefined;
  private readonly send: (channel: string, message: Buffer | string) => Promise<unknown>;
  private readonly waiting = new TurnBatch<() => void>((publishes) => this.sendAll(publishes));
  /** Resolves when the masters of a cluster are connected. */
  private warm: Promise<unknown> = Promise.resolve();
  private readonly trouble: ConnectionTrouble;
  private readonly listeners: Array<() => void> = [];

  constructor(target: Target) {
    if (target.kind === 'cluster') {
      const cluster = clusterClient(target);
      this.client = cluster;
      this.cluster = cluster;
      this.send = (channel, message) => cluster.spublish(channel, message);
    } else {
      const client = redisClient(target.options);
      writeOnceATurn(client);
      this.client = client;
      this.send = (channel, message) => client.publish(channel, message);
    }
    // Both kinds of clients have the same events.
    const client = this.client as Redis;
    const changed = (): void => {
      for (const listener of this.listeners) {
        listener();
      }
    };
    this.trouble = new ConnectionTrouble(client, changed);
    client.on('ready', () => (this.cluster === undefined ? changed() : void this.warm.then(changed)));
    this.cluster?.on('node error', (error: unknown) => this.trouble.note(error));
    this.cluster?.on('refresh', () => {
      this.warm = this.connectMasters();
    });
  }

  /** Why no command can be sent; undefined when one can. */
  get fault(): Fault | undefined {
    return this.trouble.fault;
  }

  /** The cause of a failed command. */
  explain(error: unknown): Fault {
    return this.trouble.explain(error);
  }

  /** Adds a listener that runs whenever the connection comes, goes, or fails anew. */
  onChange(listener: () => void): void {
    this.listeners.push(listener);
  }

  /**
   * Publishes at the end of the turn of the event loop, so that a writer's next write starts first.
   */
  publish(channel: string, message: Buffer | string): Promise<unknown> {
    return new Promise((resolve) => this.waiting.add(() => resolve(this.send(channel, message))));
  }

  /** Publishes at once. */
  publishNow(channel: string, message: Buffer | string): Promise<unknown> {
    return this.send(channel, message);
  }

  /** Resolves when the first attempt has come to an end; later ones are the client's own. */
  async connect(): Promise<void> {
    await this.trouble.attempt(() => this.client.connect());
    await this.warm;
  }

  /** Ends a connection to the wrong server, or a silent one. A cluster's client does that by itself. */
  reconnect(): void {
    if (this.cluster === undefined) {
      leave(this.client as Redis);
    } else {
      this.refresh();
    }
  }

  /** Reads anew which node of the cluster has which slots. */
  refresh(): void {
    this.cluster?.refreshSlotsCache(() => {});
  }

  disconnect(): void {
    this.client.disconnect();
  }

  /** Connects to all masters. The client would do so at the first command, and further commands of that turn would fail. */
  private connectMasters(): Promise<unknown> {
    const nodes = this.cluster?.nodes('master') ?? [];
    return Promise.allSettled(nodes.filter(({ status }) => status === 'wait').map((node) => node.connect()));
  }

  private sendAll(publishes: ReadonlyArray<() => void>): void {
    for (const publish of publishes) {
      publish();
    }
    // All publishes of this turn are one write.
    for (const { stream } of this.cluster?.nodes() ?? [this.client as Redis]) {
      stream?.uncork();
    }
  }
}

function clusterClient({ nodes, options }: Extract<Target, { kind: 'cluster' }>): Cluster {
  const cluster = new Cluster([...nodes], {
    lazyConnect: true,
    enableOfflineQueue: false,
    // When a master is lost, the slots of the others are still served.
    enableReadyCheck: false,
    clusterRetryStrategy: reconnectDelay,
    slotsRefreshTimeout: CONNECTION_OPTIONS.connectTimeout,
    // Nobody waits for a failover.
    retryDelayOnFailover: 0,
    retryDelayOnClusterDown: 0,
    // Names are not resolved here: certificates are made out to them, and their address may change.
    dnsLookup: (address, callback) => callback(null, address),
    redisOptions: { ...CONNECTION_OPTIONS, ...options },
  });
  cluster.on('error', () => {});
  cluster.on('+node', (node: Redis) => {
    guardReplies(node);
    checkSlots(node);
    leaveWhenSilent(node);
    writeOnceATurn(node);
  });
  return cluster;
}

type SlotsCallback = (error: Error | null, slots: unknown) => void;

/** Makes a cluster's client refuse a list of slots that is none. By itself it throws then, where nobody can catch it. */
function checkSlots(node: Redis): void {
  const duplicate = node.duplicate.bind(node);
  node.duplicate = (options) => {
    const connection = duplicate(options);
    guardReplies(connection);
    const ask = connection.cluster.bind(connection) as unknown as (what: string, take: SlotsCallback) => unknown;
    const cluster = (what: string, take: SlotsCallback): unknown =>
      ask(what, (error, slots) => take(error ?? slotsFault(slots), slots));
    return Object.assign(connection, { cluster }) as Redis;
  };
}

/** What is wrong with a list of ranges: first and last slot, then the nodes that have them. */
function slotsFault(slots: unknown): Error | null {
  const good =
    Array.isArray(slots) &&
    slots.every(
      (range) =>
        Array.isArray(range) &&
        range.slice(0, 2).every((slot) => Number.isInteger(slot) && slot >= 0 && slot < 16_384) &&
        range.slice(2).every(Array.isArray),
    );
  if (!good) {
    return garbled();
  }
  // The client would forget all nodes, and never ask again.
  return slots.length === 0 ? new Error('CLUSTERDOWN no slot of the cluster has a node') : null;
}
