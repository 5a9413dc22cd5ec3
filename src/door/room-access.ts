import { LRUCache } from 'lru-cache';
import { TurnReader } from '../base/turn-reader.js';
import { TaskwireError } from '../protocol/errors.js';
import { parseRoom, type Room } from '../protocol/rooms.js';
import { type Identity, mayAccess, maySee, refusalOf } from '../protocol/tasks.js';
import type { RoomOwner } from '../repository/log.js';

/** Finds the owners of some rooms, by room name; rooms that do not exist are left out. */
export type OwnersOf = (rooms: readonly Room[]) => Promise<ReadonlyMap<string, RoomOwner>>;

const MAX_ROOMS = 100_000;
/** How long an owner is cached, in milliseconds. When another program gives a task to another user, the old one may write to it for so long. */
const REMEMBER_MS = 5_000;
/** How often the cache looks at the clock at most, in milliseconds: each look takes a timer. */
const CLOCK_MS = 100;

/**
 * Finds the owner of a room and checks whether a key may see it. Owners hardly ever change, so they are cached for a moment:
 * for clients that write, and for those that come back together. That a room does not exist is never cached.
 */
export class RoomAccess {
  private readonly owners: LRUCache<string, string>;
  private readonly lookups: TurnReader<RoomOwner>;

  /**
   * @param maxRooms rooms whose owners are remembered
   * @param rememberMs for how long
   */
  constructor(ownersOf: OwnersOf, maxRooms = MAX_ROOMS, rememberMs = REMEMBER_MS) {
    this.owners = new LRUCache({ max: maxRooms, ttl: rememberMs, ttlResolution: Math.min(CLOCK_MS, rememberMs / 50) });
    this.lookups = new TurnReader((names) => ownersOf(names.map(parseRoom)));
  }

  /**
   * @param arriving a connection asks for its first rooms: it may wait a moment for others that come now
   * @returns the user whose stream the room is in; with the stream's head when it had to be looked up
   * @throws TaskwireError ACCESS_DENIED: a user's key is told no more, whether the room is somebody else's or does not exist;
   * NOT_FOUND for keys that may see all; DATABASE_UNAVAILABLE
   */
  async resolve(identity: Identity, room: Room, arriving = false): Promise<RoomOwner> {
    if (identity.token?.rooms?.has(room.name) === false || (room.kind === 'user' && !this.mayAsk(identity, room))) {
      throw new TaskwireError('ACCESS_DENIED');
    }
    const known = this.owners.get(room.name);
    if (known !== undefined && maySee(identity, room.name, known)) {
      return { userId: known };
    }
    // Somebody else's room is looked up each time, like a missing one. Otherwise the time of the answer would tell whether
    // the room exists.
    const owner = await this.lookup(room, arriving);
    if (owner !== undefined && maySee(identity, room.name, owner.userId)) {
      return owner;
    }
    throw new TaskwireError(refusalOf(identity));
  }

  /** Whether somebody may see a user's room. Its name says its owner. */
  private mayAsk(identity: Identity, { name, id }: Room): boolean {
    return identity.token?.rooms === undefined ? mayAccess(identity, id) : maySee(identity, name, id);
  }

  private async lookup(room: Room, arriving: boolean): Promise<RoomOwner | undefined> {
    const owner = await this.lookups.read(room.name, arriving);
    if (owner !== undefined) {
      this.owners.set(room.name, owner.userId);
    }
    return owner;
  }
}
