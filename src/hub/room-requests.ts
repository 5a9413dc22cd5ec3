import type { FairQueue } from '../base/fair-queue.js';
import type { Logger } from '../base/logger.js';
import { errorEntry, TaskwireError, toTaskwireError } from '../protocol/errors.js';
import type { SubscribeRequest } from '../protocol/messages.js';
import { parseRoom, type Room } from '../protocol/rooms.js';
import type { Identity } from '../protocol/tasks.js';
import type { RoomOwner } from '../repository/log.js';
import type { Connection } from './connection.js';
import type { HubClient } from './hub-client.js';
import { RoomOrder } from './room-order.js';
import { type SubscribeReply, Subscription } from './subscription.js';

export interface RoomRequestsPorts {
  /**
   * Checks that a key may see a room.
   * @param arriving the connection asks for its first rooms
   * @returns the user whose stream the room is in
   */
  resolve(identity: Identity, room: Room, arriving?: boolean): Promise<RoomOwner>;
  /** The queue in which connections wait for their turn to join rooms. Keys take turns. */
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
  private unresolved: Subscription[] = [];
  /** Subscriptions under way that may bring one room more. */
  private adding = 0;
  private waitsForTurn = false;
  /** Nothing has been looked up yet. */
  private arriving = true;
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
    const join = (): Promise<void> =>
      this.join(room, request, (outcome) => {
        this.adding -= adds ? 1 : 0;
        reply(outcome);
      });
    void this.order.take(room.name, join);
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

  /** Requests that are not answered yet get no answer. */
  close(): void {
    this.closed = true;
    this.unresolved = [];
  }

  /** Joins a room whose turn has come. @returns when that has been answered */
  private join(room: Room, request: SubscribeRequest, reply: SubscribeReply): Promise<void> {
    return new Promise((settled) => {
      const subscription = new Subscription(room, request, (outcome) => {
        reply(outcome);
        const result = outcome instanceof TaskwireError ? { code: outcome.code } : { seq: outcome.seq };
        this.ports.logger?.debug('subscribe', { connection: this.connection.id, room: room.name, ...result });
        settled();
      });
      this.unresolved.push(subscription);
      this.resolveSoon();
    });
  }

  /** What one read from the socket brought goes together, and what comes while it waits for its turn. */
  private resolveSoon(): void {
    if (!this.waitsForTurn) {
      this.waitsForTurn = true;
      setImmediate(() => void this.ports.turns.run(this.connection.identity.keyId, () => this.resolveAndJoin()));
    }
  }

  /**
   * Looks up the owners of the rooms, and joins all rooms in one turn of the event loop: they are caught up together, in one
   * order. When the owner of one cannot be looked up just now, all are refused, and the client asks for all again.
   */
  private async resolveAndJoin(): Promise<void> {
    const { unresolved } = this;
    this.unresolved = [];
    this.waitsForTurn = false;
    const { arriving } = this;
    this.arriving = false;
    const owners = await Promise.all(unresolved.map(({ room }) => this.ownerOf(room, arriving)));
    if (this.closed) {
      return;
    }
    const outage = owners.find((owner) => owner instanceof TaskwireError && errorEntry(owner.code).retry === 'later');
    for (const [index, subscription] of unresolved.entries()) {
      const owner = outage ?? owners[index]!;
      if (owner instanceof TaskwireError) {
        subscription.answer(owner);
      } else {
        this.client.subscribe(owner, subscription);
      }
    }
    // Joins use the processor. The next ones of the queue run in another turn of the event loop.
    await new Promise((resolve) => setImmediate(resolve));
  }

  private async ownerOf(room: Room, arriving: boolean): Promise<RoomOwner | TaskwireError> {
    try {
      return await this.ports.resolve(this.connection.identity, room, arriving);
    } catch (error) {
      return toTaskwireError(error);
    }
  }
}
