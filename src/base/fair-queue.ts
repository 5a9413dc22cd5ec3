/** How much a queue takes on. */
export interface FairQueueOptions {
  /** Tasks that run at a time. */
  readonly concurrency: number;
  /** Tasks of one key that run at a time; unset: as many as run at all. */
  readonly concurrencyPerKey?: number;
  /** Tasks of one key that may wait; unset: any number. One more is refused. */
  readonly waitingPerKey?: number;
  /** Makes the error that a task is refused with. */
  readonly refusal?: (key: string) => Error;
}

interface Job {
  started: boolean;
  /** Runs the task. Never rejects. */
  run(): Promise<void>;
}

/** What one key has in the queue. */
interface Lane {
  readonly key: string;
  readonly waiting: Job[];
  running: number;
}

/**
 * Runs a bounded number of tasks at a time. What waits, waits by key, and keys take turns: whoever has one task waiting
 * is served after at most one task of each other key, however many those have. Tasks of one key start in their order.
 *
 *     const queue = new FairQueue({ concurrency: 4, waitingPerKey: 1_000 });
 *     const rows = await queue.run(identity.keyId, () => read(room));
 */
export class FairQueue {
  private readonly lanes = new Map<string, Lane>();
  /** Lanes that have something to start, in the order of their turns. */
  private readonly turns = new Set<Lane>();
  /** Shared tasks that wait or run, by name. */
  private readonly shared = new Map<string, { readonly job: Job; readonly result: Promise<unknown> }>();
  private running = 0;

  constructor(private readonly options: FairQueueOptions) {}

  /** Tasks that wait, over all keys. A shared task counts once for each key that waits for it. */
  get waiting(): number {
    let waiting = 0;
    for (const lane of this.lanes.values()) {
      waiting += lane.waiting.length;
    }
    return waiting;
  }

  /**
   * Runs a task when it is its turn.
   * @throws the queue's refusal when too many tasks of the key wait; else what the task throws
   */
  async run<T>(key: string, task: () => Promise<T>): Promise<T> {
    const lane = this.laneWithRoom(key);
    return new Promise((resolve, reject) => {
      this.enqueue(lane, { started: false, run: () => started(task).then(resolve, reject) });
    });
  }

  /**
   * As `run`, for work that several may ask for at one time: what has the same name is done once. It starts at the first
   * turn of any key that waits for it, so nobody waits behind the other tasks of somebody else.
   * @param name names the work and what it returns
   */
  async share<T>(name: string, key: string, task: () => Promise<T>): Promise<T> {
    const same = this.shared.get(name);
    if (same === undefined) {
      const lane = this.laneWithRoom(key);
      const { promise, resolve, reject } = withResolvers<T>();
      const job = { started: false, run: () => started(task).then(resolve, reject) };
      const result = promise.finally(() => this.shared.delete(name));
      this.shared.set(name, { job, result });
      this.enqueue(lane, job);
      return result;
    }
    if (!same.job.started && !this.lanes.get(key)?.waiting.includes(same.job)) {
      this.enqueue(this.laneWithRoom(key), same.job);
    }
    return same.result as Promise<T>;
  }

  private laneWithRoom(key: string): Lane {
    const { waitingPerKey = Number.POSITIVE_INFINITY, refusal } = this.options;
    let lane = this.lanes.get(key);
    if (lane === undefined) {
      lane = { key, waiting: [], running: 0 };
      this.lanes.set(key, lane);
    } else if (lane.waiting.length >= waitingPerKey) {
      throw refusal?.(key) ?? new Error(`More than ${waitingPerKey} tasks of ${key} wait`);
    }
    return lane;
  }

  private enqueue(lane: Lane, job: Job): void {
    lane.waiting.push(job);
    this.giveTurn(lane);
    this.startNext();
  }

  /** Puts a lane that has something to start at the end of the order, and forgets one that has nothing left. */
  private giveTurn(lane: Lane): void {
    const { concurrencyPerKey = Number.POSITIVE_INFINITY } = this.options;
    if (lane.waiting.length > 0 && lane.running < concurrencyPerKey) {
      this.turns.add(lane);
    } else if (lane.waiting.length === 0 && lane.running === 0) {
      this.lanes.delete(lane.key);
    }
  }

  private startNext(): void {
    while (this.running < this.options.concurrency) {
      const [lane] = this.turns;
      if (lane === undefined) {
        return;
      }
      this.turns.delete(lane);
      let job = lane.waiting.shift();
      while (job?.started) {
        // A shared task that another key's turn has started costs this key no turn.
        job = lane.waiting.shift();
      }
      if (job !== undefined) {
        this.start(lane, job);
      }
      this.giveTurn(lane);
    }
  }

  private start(lane: Lane, job: Job): void {
    job.started = true;
    this.running += 1;
    lane.running += 1;
    void job.run().then(() => {
      this.running -= 1;
      lane.running -= 1;
      this.giveTurn(lane);
      this.startNext();
    });
  }
}

/** Runs a task. One that throws at once is one that rejects: it gives its place back like any other. */
async function started<T>(task: () => Promise<T>): Promise<T> {
  return task();
}

function withResolvers<T>(): { promise: Promise<T>; resolve(value: T): void; reject(error: unknown): void } {
  let settle: { resolve(value: T): void; reject(error: unknown): void };
  const promise = new Promise<T>((resolve, reject) => {
    settle = { resolve, reject };
  });
  return { promise, ...settle! };
}
