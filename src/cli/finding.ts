/** The result of one check. */
export interface Finding {
  readonly check: 'postgres' | 'replica' | 'clock' | 'redis' | 'files' | 'service' | 'upgrade';
  /** `failed`: the service would not work, or not as it should. */
  readonly status: 'ok' | 'warning' | 'failed';
  readonly message: string;
  /** What to do about it. */
  readonly hint?: string | undefined;
}
