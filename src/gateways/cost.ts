import type { Outgoing } from '../hub/connection.js';
import type { Success } from '../hub/reply.js';
import { TaskwireError } from '../protocol/errors.js';

/** Events of a replay that cost one unit. */
const EVENTS_PER_UNIT = 100;
/** Bytes of a snapshot that cost one unit. */
const BYTES_PER_UNIT = 65_536;

/**
 * What a message costs beyond the unit that each one costs: one for each room after the first.
 * @param data of the message, unchecked
 * @param maxRooms a longer list is refused as a whole
 */
export function costOfRooms(data: unknown, maxRooms: number): number {
  const rooms = typeof data === 'object' && data !== null ? (data as { rooms?: unknown }).rooms : undefined;
  return Array.isArray(rooms) && rooms.length > 1 && rooms.length <= maxRooms ? rooms.length - 1 : 0;
}

/** What the work behind an answer costs: one unit for a room that starts anew, and one for every hundred replayed events. */
export function costOfAnswer(outcome: Success | TaskwireError): number {
  if (outcome instanceof TaskwireError || typeof outcome.data !== 'object' || outcome.data === null) {
    return 0;
  }
  const { rooms = [outcome.data] } = outcome.data as { rooms?: unknown };
  let units = 0;
  for (const room of Array.isArray(rooms) ? rooms : []) {
    const { replayed, recovered } = room as { replayed?: unknown; recovered?: unknown };
    units += recovered === false ? 1 : 0;
    units += typeof replayed === 'number' ? Math.ceil(replayed / EVENTS_PER_UNIT) : 0;
  }
  return units;
}

/** What a message to a client costs it: one unit for every whole 64 KiB. Only snapshots are as large. */
export function costOfMessage({ payload }: Outgoing): number {
  return Math.floor(payload.length / BYTES_PER_UNIT);
}

/**
 * What a replayed event costs a client whose answer does not say how many there were: one unit for each hundred.
 * @param place of the event in the replay; the first has 1
 */
export const costOfReplayed = (place: number): number => (place % EVENTS_PER_UNIT === 1 ? 1 : 0);
