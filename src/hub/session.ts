import type { Logger } from '../base/logger.js';
import { errorEntry, TaskwireError, toTaskwireError } from '../protocol/errors.js';
import type { SubscribeRequest, SubscribeResult } from '../protocol/messages.js';
import { parseRoom, type Room } from '../protocol/rooms.js';
import type { Identity } from '../protocol/tasks.js';
import type { Connection } from './connection.js';
import type { Hub } from './hub.js';
import type { HubClient } from './hub-client.js';
import { parseSubscription, parseUnsubscription } from './requests.js';

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
  readonly room: Room;
  readonly request: SubscribeRequest;
  /** An earlier subscription to the same room that is under way. */
  readonly before: Promise<unknown> | undefined;
  readonly answer: (outcome: SubscribeResult | TaskwireError) => void;
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
          answer({ type: 'PONG', data: { positions: this.client.positions() } });
          break;
        default:
          throw new TaskwireError('INVALID_MESSAGE_TYPE');
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
    const outcomes: unknown[] = [];
    let missing = requests.length;
    requests.forEach((request, index) => {
      this.ask(request, (outcome) => {
        outcomes[index] = outcome instanceof TaskwireError ? { room: request.room, error: outcome.body } : outcome;
        missing -= 1;
        if (missing === 0) {
          reply({ type: 'SUCCESS', message: `Subscribed to ${requests.length} rooms`, data: { rooms: outcomes } });
        }
      });
    });
  }

  private ask(request: SubscribeRequest, reply: (outcome: SubscribeResult | TaskwireError) => void): void {
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
      const answer = (outcome: SubscribeResult | TaskwireError): void => {
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
      this.asked.push({ room, request, before, answer });
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

  private async ownerOf({ room }: Ask): Promise<string | TaskwireError> {
    try {
      return await this.ports.resolve(this.connection.identity, room);
    } catch (error) {
      return toTaskwireError(error);
    }
  }

  private join({ room, request, answer }: Ask, owner: string | TaskwireError): void {
    if (owner instanceof TaskwireError) {
      answer(owner);
    } else {
      const { since, epoch, snapshot } = request;
      this.client.join(owner, { request: { room, since, epoch, snapshot }, reply: answer });
    }
  }

  private unsubscribe(data: unknown, reply: Reply): void {
    const names = parseUnsubscription(data, this.ports.limits.MAX_ROOMS_PER_CONNECTION);
    const rooms = names.map(parseRoom);
    const leave = (): void => {
      for (const room of rooms) {
        this.client.leave(room);
        this.ports.logger?.debug('unsubscribe', { connection: this.connection.id, room: room.name });
      }
      reply({
        type: 'SUCCESS',
        message: `Unsubscribed from ${names.join(', ')}`,
        data: names.length === 1 ? { room: names[0] } : { rooms: names },
      });
    };
    const waiting = names.flatMap((name) => this.pending?.get(name) ?? []);
    if (waiting.length === 0) {
      leave();
    } else {
      void Promise.all(waiting).then(leave);
    }
  }
}
