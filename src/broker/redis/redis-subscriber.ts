import { type Redis, ReplyError } from 'ioredis';
import { BatchQueue, GATHER_MS } from '../../base/batch-queue.js';
import type { Logger } from '../../base/logger.js';
import { CONNECTING, type Fault } from '../condition.js';
import { ConnectionTrouble } from './connection-trouble.js';
import { leave } from './redis-client.js';
import { faultOf, garbled, SILENT } from './redis-faults.js';
import { giveUp } from './reply-guard.js';

export interface SubscriberOptions {
  /** Whether to use sharded channels of a cluster's node (SSUBSCRIBE). */
  readonly sharded: boolean;
  /** First pause after a refusal, in milliseconds. It doubles with each further one. */
  readonly refusedMs: number;
  readonly publish: (channel: string) => Promise<unknown>;
  /** The cause of a failed publish, when there is more to know than its error says. */
  readonly explain: (error: unknown) => Fault;
  readonly onMessage: (channel: string, message: Buffer) => void;
  /** Told whenever `fault` changes. */
  readonly onChange: () => void;
  /** The connection is open, but the server does not answer. */
  readonly onSilent: () => void;
  readonly logger: Pick<Logger, 'debug' | 'error'>;
}

/** Most channels of one SUBSCRIBE or UNSUBSCRIBE. */
const CHUNK = 1_000;
/** A connection is silent when so many heartbeats in a row were not heard on it. */
const UNHEARD_BEATS = 3;
/** Longest pause before a server that goes on refusing is asked again, in milliseconds. */
const MAX_REFUSED_MS = 30_000;
/** Redis has ended subscriptions of slots that another node has now. */
const MOVED: Fault = { code: 'SLOTS_MOVED', reason: 'slots of the cluster have moved to another node' };

/**
 * One connection that listens on channels. After a reconnect it subscribes to all of them again. It publishes heartbeats to
 * itself, so that it notices a dead connection. A server that refuses is asked again after ever longer pauses.
 */
export class RedisSubscriber {
  /** Why messages may be missed; undefined when none are. */
  fault: Fault | undefined = CONNECTING;
  private names = new Set<string>();
  private readonly added = new BatchQueue<readonly [name: string, inPlace: () => void]>(
    (added) => this.listenToAdded(added),
    { max: CHUNK, gatherMs: GATHER_MS },
  );
  private readonly removed = new BatchQueue<readonly [name: string, left: () => void]>(
    (removed) => this.leaveRemoved(removed),
    { max: CHUNK },
  );
  private readonly trouble: ConnectionTrouble;
  /** Heartbeats in a row that did not come back. */
  private unheard = 0;
  /** The last heartbeat whose end is known could not be sent. */
  private unsent = false;
  /** Refusals in a row. */
  private refusals = 0;
  /** Runs out when the server is asked again. */
  private retry: NodeJS.Timeout | undefined;
  /** Number of the latest attempt to subscribe to all channels. What an earlier one brings is ignored. */
  private attempt = 0;
  private stopped = false;

  constructor(
    private readonly client: Redis,
    /** The channel of its heartbeats. */
    public heartbeat: string,
    private readonly options: SubscriberOptions,
  ) {
    this.trouble = new ConnectionTrouble(client, () => {
      // The next connection asks by itself.
      this.stopRetry();
      this.attempt += 1;
      this.change(this.trouble.fault);
    });
    client.on('ready', () => void this.restore());
    client.on('moved', () => this.change(MOVED));
    client.on(options.sharded ? 'smessageBuffer' : 'messageBuffer', (channel: Buffer, message: Buffer) => {
      const name = channel.toString('latin1');
      if (name === this.heartbeat) {
        this.unheard = 0;
      } else {
        try {
          options.onMessage(name, message);
        } catch (error) {
          // No fault of the server, for which the client would take it. What is missed is found in the log.
          options.logger.error('a message could not be handled', { channel: name, error });
        }
      }
    });
  }

  /** Resolves when the first attempt to connect has come to an end and, if it was good, all channels are in place. */
  async start(): Promise<void> {
    await this.trouble.attempt(() => this.client.connect());
    if (this.client.status === 'ready') {
      await this.restore();
    }
  }

  /** Resolves when the channel is in place; without a connection at once, and the next one has it. */
  async add(name: string): Promise<void> {
    this.names.add(name);
    await new Promise<void>((resolve) => this.added.add([name, resolve]));
  }

  /** Resolves when the channel is left; without a connection at once, and the next one does not have it. */
  async remove(name: string): Promise<void> {
    this.names.delete(name);
    await new Promise<void>((resolve) => this.removed.add([name, resolve]));
  }

  /** Subscribes to exactly these channels, and to this one for heartbeats. It does not unsubscribe from others. */
  async assign(names: Set<string>, heartbeat: string): Promise<void> {
    this.names = names;
    this.heartbeat = heartbeat;
    if (this.client.status === 'ready') {
      this.stopRetry();
      this.change(MOVED);
      await this.restore();
    }
  }

  /** Whether it is subscribed to exactly these. */
  hears(names: ReadonlySet<string>, heartbeat: string): boolean {
    return (
      this.heartbeat === heartbeat && names.size === this.names.size && [...names].every((name) => this.names.has(name))
    );
  }

  /** Subscribes to all channels, on a new connection or again on the present one. */
  async restore(): Promise<void> {
    this.attempt += 1;
    const { attempt } = this;
    try {
      await this.listen([this.heartbeat, ...this.names]);
      if (this.refusals > 0) {
        await this.options.publish(this.heartbeat).catch((error: unknown) => {
          if (error instanceof ReplyError) {
            throw error;
          }
        });
        this.refusals = 0;
      }
      if (attempt === this.attempt) {
        this.unheard = 0;
        this.change(undefined);
      }
    } catch (error) {
      this.failed(error);
    }
  }

  /** Sends a heartbeat to itself. Nothing else shows that an open connection is dead. */
  beat(): void {
    this.options.publish(this.heartbeat).then(
      () => {
        // Those that could not be sent were not missed here: to leave now would interrupt events that have just come back.
        if (this.unsent) {
          this.unsent = false;
          this.unheard = 0;
        }
      },
      (error: unknown) => {
        this.unsent = true;
        if (error instanceof ReplyError) {
          this.failed(error);
        } else {
          this.leaveWhenUnheard(this.options.explain(error));
        }
      },
    );
    // Heartbeats are counted, not time: a process that was held up has not read its heartbeats yet.
    this.unheard += 1;
    if (!this.unsent) {
      this.leaveWhenUnheard(SILENT);
    }
  }

  private leaveWhenUnheard(fault: Fault): void {
    if (this.fault === undefined && this.unheard > UNHEARD_BEATS && !this.stopped) {
      this.change(fault);
      leave(this.client);
      this.options.onSilent();
    }
  }

  reconnect(): void {
    if (!this.stopped) {
      leave(this.client);
    }
  }

  stop(): void {
    this.stopped = true;
    this.stopRetry();
    this.client.disconnect();
  }

  /** Channels that came together are one command. */
  private async listenToAdded(added: ReadonlyArray<readonly [name: string, inPlace: () => void]>): Promise<void> {
    // Some may have been removed meanwhile.
    const names = added.map(([name]) => name).filter((name) => this.names.has(name));
    if (this.client.status === 'ready' && names.length > 0) {
      // When this fails, all channels are subscribed to again: by the reconnect, or by the next attempt after a refusal.
      await this.listen(names).catch((error: unknown) => this.failed(error));
    }
    for (const [, inPlace] of added) {
      inPlace();
    }
  }

  private async leaveRemoved(removed: ReadonlyArray<readonly [name: string, left: () => void]>): Promise<void> {
    const { client } = this;
    // Some may have been added again meanwhile.
    const names = removed.map(([name]) => name).filter((name) => !this.names.has(name));
    if (client.status === 'ready' && names.length > 0) {
      const leaving = this.options.sharded
        ? Promise.all(names.map((name) => client.sunsubscribe(name)))
        : client.unsubscribe(...names);
      await leaving.catch((error: unknown) => this.failed(error));
    }
    for (const [, left] of removed) {
      left();
    }
  }

  private async listen(names: readonly string[]): Promise<void> {
    const { client } = this;
    if (this.options.sharded) {
      // One command has channels of one slot only.
      this.expectCount(await Promise.all(names.map((name) => client.ssubscribe(name))));
      return;
    }
    for (let start = 0; start < names.length; start += CHUNK) {
      this.expectCount([await client.subscribe(...names.slice(start, start + CHUNK))]);
    }
  }

  /** A server that says how many channels there are has understood; any other answer is not one to this command. */
  private expectCount(answers: readonly unknown[]): void {
    if (!answers.every((answer) => typeof answer === 'number')) {
      giveUp(this.client);
      throw garbled();
    }
  }

  /** A command failed. The server refused it: ask again later. Anything else: the connection is bad, make a new one. */
  private failed(error: unknown): void {
    if (this.stopped) {
      return;
    }
    // A refusal says itself what it is about, whatever the connection for commands is at.
    const fault = error instanceof ReplyError ? faultOf(error) : this.options.explain(error);
    this.attempt += 1;
    this.change(fault);
    if (!(error instanceof ReplyError)) {
      leave(this.client);
      return;
    }
    // Another connection would be refused as well.
    if (this.retry === undefined) {
      const retryMs = Math.min(MAX_REFUSED_MS, this.options.refusedMs * 2 ** this.refusals);
      this.refusals += 1;
      this.options.logger.debug('redis refuses, and is asked again', { ...fault, retryMs });
      this.retry = setTimeout(() => {
        this.retry = undefined;
        if (this.client.status === 'ready') {
          void this.restore();
        }
      }, retryMs);
    }
  }

  private change(fault: Fault | undefined): void {
    if (!this.stopped) {
      this.fault = fault;
      this.options.onChange();
    }
  }

  private stopRetry(): void {
    clearTimeout(this.retry);
    this.retry = undefined;
  }
}
