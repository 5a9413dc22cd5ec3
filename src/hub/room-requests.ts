import type { FairQueue } from '../base/fair-queue.js';
import type { Logger } from '../base/logger.js';
import { errorEntry, TaskwireError, toTaskwireError } from '../protocol/errors.js';
import type { SubscribeRequest } from '../protocol/messages.js';
import { parseRoom, type Room } from '../protocol/rooms.js';
import type { Identity } from '../protocol/tasks.js';
import type { Connection } from './connection.js';
import type { HubClient } from './hub-client.js';
import { RoomOrder } from './room-order.js';
import { type SubscribeReply, Subscription } from './subscription.js';

export interface RoomRequestsPorts {
  /** Checks that a key may see a room. @returns the user whose stream the room is in. */
  resolve(identity: Identity, room: Room): Promise<string>;
  /** In it, the connections of each key wait for their turn to look rooms up and to join them. */
  readonly turns: FairQueue;
  /** Most rooms of a connection. */
  readonly maxRooms: number;
  readonly logger: Pick<Logger, 'debug'> | undefined;
}

/** How many requests may wait in one connection, for each room that it may have. */
const WAITING_PER_ROOM = 4;

/** What one connection asks of rooms, on its way to the hub. Requests of one room take effect in the order in which they came. */
export class RoomRequests {
  private readonly order = new RoomOrder();
  /** Subscriptions whose rooms have not been looked up. */
  private asked: Subscription[] = [];
  /** Subscriptions under way that may bring one room more. */
  private adding = 0;
  private waitsForTurn = false;
  private closed = false;

  constructor(
    private readonly connection: Connection,
    private readonly client: HubClient,
    private readonly ports: RoomRequestsPorts,
  ) {}

  /** @param reply called once, maybe later: in the very turn in which the room goes live */
  subscribe(request: SubscribeRequest, reply: SubscribeReply): void {
    let room: Room;
    let adds: boolean;
    try {
      room = parseRoom(request.room);
      // A room that the connection is in starts anew; one with a request under way may be left before its turn comes.
      adds = this.order.waits(room.name) || !this.client.has(room);
      if (adds && this.client.roomCount + this.adding >= this.ports.maxRooms) {
        throw new TaskwireError('TOO_MANY_ROOMS');
      }
    } catch (error) {
      reply(toTaskwireError(error));
      return;
    }
    this.adding += adds ? 1 : 0;
    void this.order.take(
      room.name,
      () =>
        new Promise((settled) => {
          const subscription = new Subscription(room, request, (outcome) => {
            this.adding -= adds ? 1 : 0;
            reply(outcome);
            const result = outcome instanceof TaskwireError ? { code: outcome.code } : { seq: outcome.seq };
            this.ports.logger?.debug('subscribe', { connection: this.connection.id, room: room.name, ...result });
            settled();
          });
          this.ask(subscription);
        }),
    );
  }

  /** @throws TaskwireError RATE_LIMIT_EXCEEDED when so much waits that nothing more is taken */
  assertFewWait(): void {
    if (this.order.size >= this.ports.maxRooms * WAITING_PER_ROOM) {
      throw new TaskwireError('RATE_LIMIT_EXCEEDED', {
        message: 'Too many requests of this connection wait; send more when some are answered',
        retryAfterMs: 1_000,
      });
    }
  }

  /** @returns when the room is left; undefined when it is already */
  unsubscribe(room: Room): Promise<void> | undefined {
    return this.order.take(room.name, () => {
      this.client.leave(room);
      this.ports.logger?.debug('unsubscribe', { connection: this.connection.id, room: room.name });
      return undefined;
    });
  }

  /** @returns when everything that was asked for so far has taken effect */
  done(): Promise<void> {
    return this.order.done();
  }

  /** What has not been answered gets no answer. */
  close(): void {
    this.closed = true;
    this.asked = [];
  }

  private ask(subscription: Subscription): void {
    this.asked.push(subscription);
    if (!this.waitsForTurn) {
      this.waitsForTurn = true;
      // What one read from the socket brought goes together, and what comes while it waits for its turn.
      setImmediate(() => void this.ports.turns.run(this.connection.identity.keyId, () => this.joinAsked()));
    }
  }

  /**
   * Looks up whose the rooms are, and joins them in one turn of the event loop: they are caught up together, in one order.
   * When one of them cannot be looked up for the moment, all are refused, and the client asks for all again.
   */
  private async joinAsked(): Promise<void> {
    const { asked } = this;
    this.asked = [];
    this.waitsForTurn = false;
    const owners = await Promise.all(asked.map(({ room }) => this.ownerOf(room)));
    if (this.closed) {
      return;
    }
    const outage = owners.find((owner) => owner instanceof TaskwireError && errorEntry(owner.code).retry === 'later');
    for (const [index, subscription] of asked.entries()) {
      const owner = outage ?? owners[index]!;
      if (owner instanceof TaskwireError) {
        subscription.answer(owner);
      } else {
        this.client.subscribe(owner, subscription);
      }
    }
    // Joins cost time, not waiting: the next of the queue come in another turn of the event loop.
    await new Promise((resolve) => setImmediate(resolve));
  }

  private async ownerOf(room: Room): Promise<string | TaskwireError> {
    try {
      return await this.ports.resolve(this.connection.identity, room);
    } catch (error) {
      return toTaskwireError(error);
    }
  }
}
