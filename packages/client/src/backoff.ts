/** How long to wait between tries. */
export interface Backoff {
  /** Upper bound of the first pause, in milliseconds (500). */
  readonly baseMs: number;
  /** Upper bound of every pause, in milliseconds (30,000). */
  readonly capMs: number;
}

/**
 * A pause with full jitter: anything from nothing to a bound that doubles with each try, without end, on top of what the
 * server asked for.
 * @param attempt tries that failed in a row, from 0
 * @param random a number from 0 to 1
 * @returns milliseconds
 */
export const pause = ({ baseMs, capMs }: Backoff, attempt: number, random: number, retryAfterMs = 0): number =>
  retryAfterMs + random * Math.min(capMs, baseMs * 2 ** Math.min(attempt, 20));
