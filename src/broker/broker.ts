/** Receives all that one read from the transport brought for a channel, in order of arrival. */
export type ChannelListener = (batch: readonly Buffer[]) => void;

export interface RateLimitResult {
  readonly allowed: boolean;
  readonly limit: number;
  readonly remaining: number;
  /** Milliseconds until the window ends. */
  readonly resetMs: number;
}

/**
 * What workers share: channels, connection leases, rate limits and the list of live workers.
 *
 * **Guarantee.** Channels are *at most once* and unordered between publishers: a message may be lost, late, or arrive
 * before an earlier one of another process. It is never altered. Who needs more reads the event log. A process
 * receives what it publishes itself.
 *
 * **Outages.** No method waits for a lost server to return: `publish` rejects, `subscribe` resolves and takes effect at
 * the reconnect, limits and leases fall back to this process's own memory. `onUp` listeners run after every reconnect,
 * when all subscriptions are in place again: whatever was published before may have been missed.
 */
export interface Broker {
  readonly kind: 'redis' | 'local';
  /** This process among all that share the broker; unique per start. */
  readonly nodeId: string;

  /** Whether the transport works, as far as is known now. */
  readonly up: boolean;
  onUp(listener: () => void): void;
  onDown(listener: () => void): void;

  /** @throws when the message could not be handed to the transport. */
  publish(channel: string, message: Buffer): Promise<void>;
  /** Resolves when everything published from now on arrives. One listener a channel. */
  subscribe(channel: string, listener: ChannelListener): Promise<void>;
  unsubscribe(channel: string): Promise<void>;

  /** The Socket.IO adapter that fits the transport, as `io.adapter()` takes it. */
  socketAdapter(): unknown;

  /**
   * Counts one request of an API key in its window of 60 s.
   * @param key id of the API key
   * @param limit requests per minute
   */
  consume(key: string, limit: number): Promise<RateLimitResult>;

  /**
   * Takes one of `limit` connections of an address, counted over all live nodes.
   * @returns a function that gives the place back (idempotent), or undefined when all are taken.
   */
  acquireConnection(address: string, limit: number): Promise<(() => void) | undefined>;

  /** Ids of the nodes whose lease has not run out; a killed one disappears within the lease time. */
  liveNodes(): Promise<string[]>;

  /** Joins the live nodes; resolves even when the transport is down. */
  start(): Promise<void>;
  /** Leaves the live nodes and gives back all leases. Idempotent. */
  stop(): Promise<void>;
}

/** Channel of a user's stream. */
export const streamChannel = (userId: string): string => `stream:${userId}`;

/** Channel of messages that concern every worker: revoked keys, requests for statistics. */
export const CONTROL_CHANNEL = 'control';
