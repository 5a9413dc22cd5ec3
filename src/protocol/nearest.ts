import { distance } from 'fastest-levenshtein';

/** Longer names are nobody's slip of the pen, and comparing them would take long. */
const MAX_LENGTH = 64;

/** `roomId`, `room-id` and `ROOM_ID` are one name here. */
const plain = (name: string): string => name.toLowerCase().replace(/[^a-z0-9]/g, '');

/**
 * Finds the name that somebody most likely meant.
 *
 *     nearest('sinse', ['room', 'since'])  // 'since'
 *
 * @returns undefined when none is near: at most a third of the letters may differ
 */
export function nearest(name: string, names: Iterable<string>): string | undefined {
  if (name.length > MAX_LENGTH) {
    return undefined;
  }
  const given = plain(name);
  let best: string | undefined;
  let least = Math.max(1, Math.floor(given.length / 3)) + 1;
  for (const candidate of names) {
    const steps = distance(given, plain(candidate));
    if (steps < least && steps < candidate.length) {
      best = candidate;
      least = steps;
    }
  }
  return best;
}

/** `; did you mean "since"?`, or nothing. */
export const meant = (name: string | undefined): string => (name === undefined ? '' : `; did you mean "${name}"?`);

/** What somebody sent, short enough to be shown in an answer. */
export function shown(value: unknown): string {
  const text = typeof value === 'string' ? JSON.stringify(value) : String(JSON.stringify(value));
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}
