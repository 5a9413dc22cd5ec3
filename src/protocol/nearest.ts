import { distance } from 'fastest-levenshtein';

/** Longer names are nobody's slip of the pen, and comparing them would take long. */
const MAX_LENGTH = 64;

/** `roomId`, `room-id` and `ROOM_ID` are one name here. */
const plain = (name: string): string => name.toLowerCase().replace(/[^a-z0-9]/g, '');

/** How many letters of a name may differ: a third of them. */
const thirdOf = (name: string): number => Math.max(1, Math.floor(name.length / 3));

/**
 * Finds the name that somebody most likely meant.
 *
 *     nearest('sinse', ['room', 'since'])  // 'since'
 *
 * @param most letters that may differ; a third of them when absent
 * @returns undefined when none is near
 */
export function nearest(name: string, names: Iterable<string>, most?: number): string | undefined {
  if (name.length > MAX_LENGTH) {
    return undefined;
  }
  const given = plain(name);
  let best: string | undefined;
  let least = (most ?? thirdOf(given)) + 1;
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
