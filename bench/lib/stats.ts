/** Median, smallest and largest of some runs. */
export interface Summary {
  readonly median: number;
  readonly min: number;
  readonly max: number;
  readonly count: number;
}

/** @param sorted ascending; @param share between 0 and 1 */
export function quantile(sorted: ArrayLike<number>, share: number): number {
  const { length } = sorted;
  return length === 0 ? Number.NaN : sorted[Math.min(length - 1, Math.max(0, Math.ceil(share * length) - 1))]!;
}

export function summarize(values: readonly number[]): Summary {
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const median =
    sorted.length === 0
      ? Number.NaN
      : sorted.length % 2 === 1
        ? sorted[middle]!
        : (sorted[middle - 1]! + sorted[middle]!) / 2;
  return { median, min: sorted[0] ?? Number.NaN, max: sorted.at(-1) ?? Number.NaN, count: sorted.length };
}

/** Median, 99th percentile and maximum of latencies. */
export function latencyFigures(micros: Float64Array, prefix: string): Record<string, number> {
  if (micros.length === 0) {
    return {};
  }
  const sorted = micros.slice().sort();
  return {
    [`${prefix}_p50_ms`]: quantile(sorted, 0.5) / 1e3,
    [`${prefix}_p99_ms`]: quantile(sorted, 0.99) / 1e3,
    [`${prefix}_max_ms`]: sorted.at(-1)! / 1e3,
  };
}
