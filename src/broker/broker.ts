/** Gets the messages of a channel: all that came in one read from the transport, in order of arrival. */
export type ChannelListener = (batch: readonly Buffer[]) => void;

export interface RateLimitResult {
  readonly allowed: boolean;
  readonly limit: number;
  readonly remaining: number;
  /** Milliseconds until the window ends. */
  readonly resetMs: number;
}

/** How a broker is, for the health. */
export interface BrokerState {
  /** `degraded`: a part of it works. */
  readonly status: 'up' | 'degraded' | 'down';
  /** What does not work meanwhile, in words for operators; empty when all is well. */
  readonly lost: readonly string[];
}

/** Whether the transport works, as far as is known now. */
export interface Availability {
  /** Whether channels bring everything that is published. */
  readonly up: boolean;
  /**
   * Adds a listener that runs whenever all subscriptions are in place again: what was published before may have been
   * missed.
   */
  onUp(listener: () => void): void;
  onDown(listener: () => void): void;
}

/** All that a publisher needs. */
export interface Publishing {
  /** @throws when the message could not be handed to the transport */
  publish(channel: string, message: Buffer): Promise<void>;
}

/**
 * Channels are *at most once* and unordered between publishers: a message may be lost, late, or arrive before an earlier
 * one of another process. It is never altered. For anything more there is the event log. A process also receives what it
 * publishes itself.
 */
export interface PubSub extends Publishing, Subscribing {}

/** The receiving half of `PubSub`. */
export interface Subscribing {
  /** Resolves when everything published from now on arrives. One listener a channel. */
  subscribe(channel: string, listener: ChannelListener): Promise<void>;
  unsubscribe(channel: string): Promise<void>;
}

/** Counts requests of API keys over all nodes. */
export interface RateStore {
  /**
   * Counts one request of an API key in its window of 60 s.
   * @param key id of the API key
   * @param limit requests per minute
   * @param requests as how many it counts (1)
   */
  consume(key: string, limit: number, requests?: number): Promise<RateLimitResult>;
}

/** Counts connections of addresses over all live nodes. */
export interface ConnectionPlaces {
  /**
   * Takes one of `limit` connections of an address.
   * @returns a function that gives the place back (idempotent), or undefined when all are taken.
   */
  acquireConnection(address: string, limit: number): Promise<(() => void) | undefined>;
}

/** The processes that share a broker. */
export interface Nodes {
  /** This process among them; unique per start. */
  readonly nodeId: string;
  /** Ids of the nodes whose lease has not run out; a killed one disappears within the lease time. */
  liveNodes(): Promise<string[]>;
  /**
   * Ends the lease of a node that is dead, as whoever started its process knows: what it held is free at once. Never rejects; while
   * the server is away the lease ends by itself.
   */
  bury(nodeId: string): Promise<void>;
}

/**
 * What workers share. Its users ask for the role that they need: `PubSub`, `RateStore`, `ConnectionPlaces`, `Nodes`,
 * `Availability`.
 *
 * **Outages.** No method waits for a lost server to return: `publish` rejects, `subscribe` resolves and takes effect at
 * the reconnect, limits and places fall back to this process's own memory.
 */
export interface Broker extends Availability, PubSub, RateStore, ConnectionPlaces, Nodes {
  readonly state: BrokerState;
  /** The Socket.IO adapter that fits the transport, as `io.adapter()` takes it. */
  socketAdapter(): unknown;
  /** Joins the live nodes; resolves even when the transport is down. */
  start(): Promise<void>;
  /** Leaves the live nodes and gives back all places. Idempotent. */
  stop(): Promise<void>;
}

/** Channel of a user's stream. */
export const streamChannel = (userId: string): string => `stream:${userId}`;

/** Channel of messages that concern every worker: revoked keys, requests for statistics. */
export const CONTROL_CHANNEL = 'control';
