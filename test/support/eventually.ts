import { setTimeout as sleep } from 'node:timers/promises';

/**
 * Repeats `attempt` until it no longer throws. Tests wait for conditions, never for time.
 * @param options `timeoutMs` how long to go on (10,000), `intervalMs` pause between attempts (20)
 * @returns what the attempt that succeeded returned
 * @throws what the last attempt threw
 */
export async function eventually<T>(
  attempt: () => T | Promise<T>,
  options: { timeoutMs?: number; intervalMs?: number } = {},
): Promise<T> {
  const { timeoutMs = 10_000, intervalMs = 20 } = options;
  const end = performance.now() + timeoutMs;
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (performance.now() >= end) {
        throw error;
      }
    }
    await sleep(intervalMs);
  }
}
