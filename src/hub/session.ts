import type { Logger } from '../base/logger.js';
import { unknownType } from '../protocol/client-message.js';
import { errorEntry, TaskwireError, toTaskwireError } from '../protocol/errors.js';
import { isObject } from '../protocol/fields.js';
import type { RoomRefusal, SubscribeRequest, SubscribeResult } from '../protocol/messages.js';
import { MAX_ROOM_NAME_LENGTH, parseRoom, type Room } from '../protocol/rooms.js';
import type { Identity } from '../protocol/tasks.js';
import type { Connection } from './connection.js';
import type { Hub } from './hub.js';
import type { HubClient } from './hub-client.js';
import { parseSubscription, parseUnsubscription } from './requests.js';
import { type SubscribeReply, Subscription } from './subscription.js';

/** A good answer to a client's message. */
export interface Success {
  readonly type: 'SUCCESS' | 'PONG';
  readonly message?: string;
  readonly data: unknown;
}

export type Reply = (outcome: Success | TaskwireError) => void;

/** The message protocol of one connection, the same on both wires. */
export interface Session {
  /**
   * Handles one message. `reply` is called once, maybe later: for SUBSCRIBE in the very turn in which the room is joined.
   * Nothing is called after `close`.
   */
  handle(type: string, data: unknown, reply: Reply): void;
  close(): void;
}

/** A room that a client asked for. */
interface Ask {
  readonly subscription: Subscription;
  /** An earlier subscription to the same room that is under way. */
  readonly before: Promise<unknown> | undefined;
}

export type OpenSession = (connection: Connection) => Session;

export interface SessionPorts {
  /** Checks that a key may see a room. @returns the user whose stream the room is in. */
  resolve(identity: Identity, room: Room): Promise<string>;
  readonly limits: {
    readonly MAX_ROOMS_PER_CONNECTION: number;
  };
  readonly logger?: Pick<Logger, 'debug'>;
}

export const sessionOpener =
  (hub: Hub, ports: SessionPorts): OpenSession =>
  (connection) =>
    new HubSession(connection, hub.connect(connection), ports);

/** The answer to several rooms, which says plainly when some were refused. */
function listAnswer(done: string, rooms: ReadonlyArray<string | SubscribeResult | RoomRefusal>): Success {
  const refused = rooms.filter((room): room is RoomRefusal => typeof room === 'object' && 'error' in room);
  const [first] = refused;
  if (first === undefined) {
    return { type: 'SUCCESS', message: `${done} ${rooms.length} rooms`, data: { rooms } };
  }
  const others = refused.length > 1 ? ` and ${refused.length - 1} more` : '';
  return {
    type: 'SUCCESS',
    message: `${done} ${rooms.length - refused.length} of ${rooms.length} rooms; refused: ${first.room} (${first.error.code})${others}`,
    data: { rooms, failed: refused.length },
  };
}

/** @throws TaskwireError INVALID_MESSAGE */
function assertNoData(data: unknown): void {
  if (data !== undefined && data !== null && !(isObject(data) && Object.keys(data).length === 0)) {
    throw new TaskwireError('INVALID_MESSAGE', { message: 'PING takes no data; its answer tells of all your rooms' });
  }
}

class HubSession implements Session {
  /** Subscriptions under way, by room, while there are any: an UNSUBSCRIBE waits for the SUBSCRIBE that came before it. */
  private pending: Map<string, Promise<unknown>> | undefined;
  /** Those under way that may bring one room more. */
  private adding = 0;
  /** Subscriptions of this turn. */
  private asked: Ask[] | undefined;
  private closed = false;

  constructor(
    private readonly connection: Connection,
    private readonly client: HubClient,
    private readonly ports: SessionPorts,
  ) {}

  handle(type: string, data: unknown, reply: Reply): void {
    const answer: Reply = (outcome) => {
      if (!this.closed) {
        reply(outcome);
      }
    };
    try {
      switch (type) {
        case 'SUBSCRIBE':
          this.subscribe(data, answer);
          break;
        case 'UNSUBSCRIBE':
          this.unsubscribe(data, answer);
          break;
        case 'PING':
          assertNoData(data);
          answer({ type: 'PONG', data: { positions: this.client.positions() } });
          break;
        default:
          throw unknownType(type);
      }
    } catch (error) {
      answer(toTaskwireError(error));
    }
  }

  close(): void {
    this.closed = true;
    this.client.close();
  }

  private subscribe(data: unknown, reply: Reply): void {
    const { requests, single } = parseSubscription(data, this.ports.limits.MAX_ROOMS_PER_CONNECTION);
    if (single) {
      this.ask(requests[0]!, (outcome) => {
        if (outcome instanceof TaskwireError) {
          reply(outcome);
        } else {
          reply({ type: 'SUCCESS', message: `Subscribed to ${outcome.room}`, data: outcome });
        }
      });
      return;
    }
    const outcomes: Array<SubscribeResult | RoomRefusal> = [];
    let missing = requests.length;
    requests.forEach((request, index) => {
      this.ask(request, (outcome) => {
        outcomes[index] = outcome instanceof TaskwireError ? { room: request.room, error: outcome.body } : outcome;
        missing -= 1;
        if (missing === 0) {
          reply(listAnswer('Subscribed to', outcomes));
        }
      });
    });
  }

  private ask(request: SubscribeRequest, reply: SubscribeReply): void {
    let room: Room;
    let adds: boolean;
    try {
      room = parseRoom(request.room);
      // A room that the connection is in is started anew; one under way may be left before its turn comes.
      adds = this.pending?.has(room.name) === true || !this.client.has(room);
      if (adds && this.client.roomCount + this.adding >= this.ports.limits.MAX_ROOMS_PER_CONNECTION) {
        throw new TaskwireError('TOO_MANY_ROOMS');
      }
    } catch (error) {
      reply(toTaskwireError(error));
      return;
    }
    const before = this.pending?.get(room.name);
    this.adding += adds ? 1 : 0;
    const work = new Promise<void>((resolve) => {
      const answer: SubscribeReply = (outcome) => {
        this.adding -= adds ? 1 : 0;
        reply(outcome);
        const result = outcome instanceof TaskwireError ? { code: outcome.code } : { seq: outcome.seq };
        this.ports.logger?.debug('subscribe', { connection: this.connection.id, room: room.name, ...result });
        resolve();
      };
      if (this.asked === undefined) {
        this.asked = [];
        setImmediate(() => void this.joinAsked());
      }
      this.asked.push({ subscription: new Subscription(room, request, answer), before });
    }).finally(() => this.settled(room, work));
    this.pending ??= new Map();
    this.pending.set(room.name, work);
  }

  private settled(room: Room, work: Promise<unknown>): void {
    if (this.pending?.get(room.name) === work) {
      this.pending.delete(room.name);
      if (this.pending.size === 0) {
        this.pending = undefined;
      }
    }
  }

  /**
   * Joins what one read from the socket asked for, in one turn: rooms that are joined together are replayed together, in
   * one order. When one of them cannot be looked up for the moment, all wait for the client to ask again: an event that is
   * replayed for one room brings the client's position in its other rooms forward too, past what those still miss.
   * A room that is being joined already waits for that by itself.
   */
  private async joinAsked(): Promise<void> {
    const asked = this.asked ?? [];
    this.asked = undefined;
    const first = asked.filter(({ before }) => before === undefined);
    const owners = await Promise.all(first.map((ask) => this.ownerOf(ask)));
    const outage = owners.find((owner) => owner instanceof TaskwireError && errorEntry(owner.code).retry === 'later');
    for (const [index, ask] of first.entries()) {
      this.join(ask, outage ?? owners[index]!);
    }
    for (const ask of asked) {
      if (ask.before !== undefined) {
        void ask.before.then(() => this.ownerOf(ask)).then((owner) => this.join(ask, owner));
      }
    }
  }

  private async ownerOf({ subscription }: Ask): Promise<string | TaskwireError> {
    try {
      return await this.ports.resolve(this.connection.identity, subscription.room);
    } catch (error) {
      return toTaskwireError(error);
    }
  }

  private join({ subscription }: Ask, owner: string | TaskwireError): void {
    if (owner instanceof TaskwireError) {
      subscription.answer(owner);
    } else {
      this.client.subscribe(owner, subscription);
    }
  }

  private unsubscribe(data: unknown, reply: Reply): void {
    const { requests, single } = parseUnsubscription(data, this.ports.limits.MAX_ROOMS_PER_CONNECTION);
    const rooms = requests.map((request): Room | RoomRefusal => {
      try {
        if ('error' in request) {
          throw request.error;
        }
        return parseRoom(request.room);
      } catch (error) {
        if (single) {
          throw error;
        }
        return { room: String(request.room).slice(0, MAX_ROOM_NAME_LENGTH), error: toTaskwireError(error).body };
      }
    });
    const names = rooms.flatMap((room) => ('error' in room ? [] : room.name));
    const leave = (): void => {
      const outcomes = rooms.map((room) => {
        if ('error' in room) {
          return room;
        }
        this.client.leave(room);
        this.ports.logger?.debug('unsubscribe', { connection: this.connection.id, room: room.name });
        return room.name;
      });
      reply(
        single
          ? { type: 'SUCCESS', message: `Unsubscribed from ${names[0]}`, data: { room: names[0] } }
          : listAnswer('Unsubscribed from', outcomes),
      );
    };
    const waiting = names.flatMap((name) => this.pending?.get(name) ?? []);
    if (waiting.length === 0) {
      leave();
    } else {
      void Promise.all(waiting).then(leave);
    }
  }
}
