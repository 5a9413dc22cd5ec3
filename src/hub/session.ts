import { FairQueue } from '../base/fair-queue.js';
import type { Logger } from '../base/logger.js';
import { unknownType } from '../protocol/client-message.js';
import { TaskwireError, toTaskwireError } from '../protocol/errors.js';
import { isObject } from '../protocol/fields.js';
import type { RoomRefusal, SubscribeResult } from '../protocol/messages.js';
import { MAX_ROOM_NAME_LENGTH, parseRoom, type Room } from '../protocol/rooms.js';
import type { Connection } from './connection.js';
import { CredentialLife, type CredentialPorts } from './credential-life.js';
import type { Hub } from './hub.js';
import type { HubClient } from './hub-client.js';
import type { Reply, Success } from './reply.js';
import { parseSubscription, parseUnsubscription } from './requests.js';
import { RoomRequests, type RoomRequestsPorts } from './room-requests.js';

/** The message protocol of one connection, the same on both wires. */
export interface Session {
  /**
   * Handles one message. `reply` is called once, maybe later: for SUBSCRIBE in the very turn in which the room is joined.
   * Nothing is called after `close`.
   */
  handle(type: string, data: unknown, reply: Reply): void;
  /** The client does not keep up: events of its rooms are held back until it has read what waits for it. */
  fallBehind(): void;
  close(): void;
}

export type OpenSession = (connection: Connection) => Session;

export interface SessionPorts extends CredentialPorts {
  readonly resolve: RoomRequestsPorts['resolve'];
  readonly limits: {
    readonly MAX_ROOMS_PER_CONNECTION: number;
  };
  readonly logger?: Pick<Logger, 'debug'>;
}

/** Messages of one connection that may wait for the answer to an AUTH. */
const MAX_WAITING = 256;
/** Connections that look rooms up and join them at a time. */
const JOIN_CONCURRENCY = 16;

/** Opens the sessions of one worker. Its connections take turns by key where they join rooms. */
export function sessionOpener(hub: Hub, ports: SessionPorts): OpenSession {
  const { resolve, limits, logger } = ports;
  const requestsPorts: RoomRequestsPorts = {
    resolve,
    turns: new FairQueue({ concurrency: JOIN_CONCURRENCY }),
    maxRooms: limits.MAX_ROOMS_PER_CONNECTION,
    logger,
  };
  return (connection) => {
    const client = hub.connect(connection);
    const rooms = new RoomRequests(connection, client, requestsPorts);
    return new HubSession(client, rooms, new CredentialLife(connection, ports), limits);
  };
}

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
  private closed = false;
  /** An AUTH is under way: messages behind it wait until it is answered. */
  private renewing = false;
  private readonly waiting: Array<() => void> = [];

  constructor(
    private readonly client: HubClient,
    private readonly rooms: RoomRequests,
    private readonly credentials: CredentialLife,
    private readonly limits: SessionPorts['limits'],
  ) {}

  handle(type: string, data: unknown, reply: Reply): void {
    const answer: Reply = (outcome) => {
      if (!this.closed) {
        reply(outcome);
      }
    };
    if (!this.renewing) {
      this.take(type, data, answer);
    } else if (this.waiting.length < MAX_WAITING) {
      this.waiting.push(() => this.take(type, data, answer));
    } else {
      answer(
        new TaskwireError('RATE_LIMIT_EXCEEDED', {
          message: 'Too many messages wait behind AUTH; send more when it is answered',
          retryAfterMs: 1_000,
        }),
      );
    }
  }

  private take(type: string, data: unknown, answer: Reply): void {
    if (this.closed) {
      return;
    }
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
        case 'AUTH':
          void this.renew(data, answer);
          break;
        default:
          throw unknownType(type);
      }
    } catch (error) {
      answer(toTaskwireError(error));
    }
  }

  fallBehind(): void {
    this.client.fallBehind();
  }

  close(): void {
    this.closed = true;
    this.waiting.length = 0;
    this.credentials.end();
    this.rooms.close();
    this.client.close();
  }

  private async renew(data: unknown, reply: Reply): Promise<void> {
    this.renewing = true;
    try {
      await this.rooms.done();
      reply(await this.credentials.renew(data, () => this.client.rooms));
    } catch (error) {
      reply(toTaskwireError(error));
    }
    this.renewing = false;
    // One of them may be another AUTH, for which the rest waits again.
    while (!this.renewing && this.waiting.length > 0) {
      this.waiting.shift()!();
    }
  }

  /**
   * The way of a SUBSCRIBE: `requests.ts` reads it, `room-requests.ts` puts it in order and has the rooms looked up, and
   * `hub-client.ts` joins them to the owner's stream. `catch-up.ts` sends what came after `since`, or a snapshot, and
   * answers in the turn in which the room goes live.
   */
  private subscribe(data: unknown, reply: Reply): void {
    const { requests, single } = parseSubscription(data, this.limits.MAX_ROOMS_PER_CONNECTION);
    if (single) {
      this.rooms.subscribe(requests[0]!, (outcome) => {
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
      this.rooms.subscribe(request, (outcome) => {
        outcomes[index] = outcome instanceof TaskwireError ? { room: request.room, error: outcome.body } : outcome;
        missing -= 1;
        if (missing === 0) {
          reply(listAnswer('Subscribed to', outcomes));
        }
      });
    });
  }

  private unsubscribe(data: unknown, reply: Reply): void {
    const { requests, single } = parseUnsubscription(data, this.limits.MAX_ROOMS_PER_CONNECTION);
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
    this.rooms.assertFewWait();
    const left = rooms.flatMap((room) => ('error' in room ? [] : (this.rooms.unsubscribe(room) ?? [])));
    const names = rooms.map((room) => ('error' in room ? room : room.name));
    const answer = (): void =>
      reply(
        single
          ? { type: 'SUCCESS', message: `Unsubscribed from ${names[0]}`, data: { room: names[0] } }
          : listAnswer('Unsubscribed from', names),
      );
    if (left.length === 0) {
      answer();
    } else {
      void Promise.all(left).then(answer);
    }
  }
}
