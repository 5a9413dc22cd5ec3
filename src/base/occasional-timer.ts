/** An interval that runs only while there is something to do at it, so that it does not wake a process that has nothing to do. */
export class OccasionalTimer {
  private timer: NodeJS.Timeout | undefined;

  /** @param beat called each `ms` milliseconds, from `start` to `stop`; the process may end meanwhile */
  constructor(
    private readonly ms: number,
    private readonly beat: () => void,
  ) {}

  /** Does nothing while it runs. */
  start(): void {
    this.timer ??= setInterval(this.beat, this.ms).unref();
  }

  stop(): void {
    clearInterval(this.timer);
    this.timer = undefined;
  }
}
