import { micros } from '../lib/clock.js';
import { goFirst } from '../lib/machine.js';
import { Connection, type ConnectionEvents, type RoomRequest, type Target } from './connection.js';
import type { Counted, Ended, Expected, Opened, Pace, Request } from './messages.js';

/** How long a connection may take to be set up before it is tried again. */
const PATIENCE_MS = 5_000;
const ATTEMPTS = 5;
const MAX_SAMPLES = 400_000;

/** One load process: holds connections and keeps account of what each receives. */
class Load implements ConnectionEvents {
  private targets: readonly Target[] = [];
  private rooms: ReadonlyArray<readonly string[]> = [];
  private accounts = new Int32Array(0);
  private connections: Array<Connection | undefined> = [];
  /** By connection: newest event, events and their sum since the count began, position and epoch. */
  private last = new Float64Array(0);
  private counts = new Float64Array(0);
  private sums = new Float64Array(0);
  private epochs: Array<string | undefined> = [];
  private live = new Uint8Array(0);
  private every = 1;
  private delivered = 0;
  private disordered = 0;
  private closed = 0;
  private lastMicros = 0;
  private timeOfTurn = 0;
  private readonly samples = new Float64Array(3 * MAX_SAMPLES);
  private sampled = 0;
  private problems: string[] = [];
  private cpu = process.cpuUsage();
  private settle:
    | ((index: number, outcome: 'ready' | string, answer?: Parameters<ConnectionEvents['ready']>[1]) => void)
    | undefined;

  async answer(request: Request): Promise<unknown> {
    switch (request.do) {
      case 'open': {
        const size = request.rooms.length;
        this.targets = request.targets;
        this.rooms = request.rooms;
        this.accounts = Int32Array.from(request.accounts);
        this.connections = new Array(size);
        this.last = new Float64Array(size).fill(-1);
        this.counts = new Float64Array(size);
        this.sums = new Float64Array(size);
        this.epochs = new Array(size);
        this.live = new Uint8Array(size);
        return this.open(request.pace, false);
      }
      case 'reopen':
        return this.open({ parallel: Number.POSITIVE_INFINITY }, request.resume);
      case 'drop':
        this.live.fill(0);
        for (const connection of this.connections) {
          connection?.destroy();
        }
        return undefined;
      case 'begin':
        this.begin(request.every);
        return undefined;
      case 'count':
        return this.counted();
      case 'end':
        return this.end(request.expected);
    }
  }

  event(index: number, seq: number): void {
    this.delivered += 1;
    if (seq <= this.last[index]!) {
      this.disordered += 1;
      return;
    }
    this.last[index] = seq;
    this.counts[index]! += 1;
    this.sums[index]! += seq;
    if (this.timeOfTurn === 0) {
      // One reading of the clock serves all that arrives in a turn of the event loop.
      this.timeOfTurn = micros();
      this.lastMicros = this.timeOfTurn;
      setImmediate(() => {
        this.timeOfTurn = 0;
      });
    }
    if ((index + seq) % this.every === 0 && this.sampled < MAX_SAMPLES) {
      const at = 3 * this.sampled++;
      this.samples[at] = this.accounts[index]!;
      this.samples[at + 1] = seq;
      this.samples[at + 2] = micros();
    }
  }

  ready(index: number, positions: Parameters<ConnectionEvents['ready']>[1]): void {
    this.settle?.(index, 'ready', positions);
  }

  failed(index: number, reason: string): void {
    if (this.live[index] === 1) {
      this.live[index] = 0;
      this.closed += 1;
      this.complain(reason);
    } else {
      this.settle?.(index, reason);
    }
  }

  private complain(reason: string): void {
    if (this.problems.length < 5) {
      this.problems.push(reason);
    }
  }

  private begin(every: number): void {
    this.every = every;
    this.counts.fill(0);
    this.sums.fill(0);
    this.delivered = 0;
    this.disordered = 0;
    this.closed = 0;
    this.sampled = 0;
    this.problems = [];
    this.cpu = process.cpuUsage();
  }

  private open(pace: Pace, resume: boolean): Promise<Opened> {
    const size = this.rooms.length;
    const latencies = new Float64Array(size);
    const startedAt = new Float64Array(size);
    const attempts = new Uint8Array(size);
    const timers: Array<NodeJS.Timeout | undefined> = new Array(size);
    let ready = 0;
    let failed = 0;
    let retries = 0;
    let replayed = 0;
    let unrecovered = 0;
    let next = 0;
    this.problems = [];
    return new Promise((resolve) => {
      const done = (): void => {
        if (ready + failed === size) {
          this.settle = undefined;
          resolve({
            ready,
            failed,
            retries,
            problems: this.problems,
            latencies: latencies.subarray(0, ready),
            replayed,
            unrecovered,
          });
        } else if ('parallel' in pace && next < size) {
          start(next++);
        }
      };
      const start = (index: number): void => {
        attempts[index]! += 1;
        startedAt[index] = micros();
        this.connections[index] = new Connection(
          index,
          this.targets[index % this.targets.length]!,
          this.requests(index, resume),
          this,
        );
        timers[index] = setTimeout(() => {
          this.connections[index]?.destroy();
          this.settle?.(index, `no answer in ${PATIENCE_MS} ms`);
        }, PATIENCE_MS);
      };
      this.settle = (index, outcome, answers = []) => {
        clearTimeout(timers[index]);
        if (outcome === 'ready') {
          latencies[ready++] = micros() - startedAt[index]!;
          this.live[index] = 1;
          for (const { seq = -1, epoch, recovered, replayed: count = 0 } of answers) {
            this.last[index] = Math.max(this.last[index]!, seq);
            this.epochs[index] = epoch;
            replayed += count;
            unrecovered += resume && recovered === false ? 1 : 0;
          }
          done();
        } else {
          this.complain(outcome);
          if (attempts[index]! < ATTEMPTS) {
            retries += 1;
            start(index);
          } else {
            failed += 1;
            done();
          }
        }
      };
      const startUpTo = (end: number): void => {
        while (next < Math.min(size, end)) {
          start(next++);
        }
      };
      if ('parallel' in pace) {
        startUpTo(pace.parallel);
      } else {
        const begun = micros();
        const clock = setInterval(() => {
          startUpTo(((micros() - begun) / 1e6) * pace.perSecond);
          if (next === size) {
            clearInterval(clock);
          }
        }, 1);
      }
      if (size === 0) {
        done();
      }
    });
  }

  private requests(index: number, resume: boolean): RoomRequest[] {
    const epoch = this.epochs[index];
    const since = this.last[index]!;
    return this.rooms[index]!.map((room) =>
      resume && since >= 0 ? { room, since, ...(epoch === undefined ? {} : { epoch }) } : { room },
    );
  }

  private counted(): Counted {
    const { user, system } = process.cpuUsage(this.cpu);
    return { delivered: this.delivered, lastMicros: this.lastMicros, cpuMicros: user + system };
  }

  private end({ counts, sums, stamps }: Expected): Ended {
    let lost = 0;
    let extra = 0;
    let wrong = 0;
    for (const [index, account] of this.accounts.entries()) {
      const wanted = account < 0 ? 0 : counts[account]!;
      const missing = wanted - this.counts[index]!;
      lost += Math.max(0, missing);
      extra += Math.max(0, -missing);
      if (missing === 0 && account >= 0 && sums[account] !== this.sums[index]) {
        wrong += 1;
      }
    }
    return {
      ...this.counted(),
      lost,
      extra,
      wrong,
      disordered: this.disordered,
      closed: this.closed,
      problems: this.problems,
      latencies: this.latencies(stamps),
    };
  }

  private latencies(stamps: Float64Array): Float64Array {
    const sentAt = new Map<number, Map<number, number>>();
    for (let at = 0; at < stamps.length; at += 3) {
      const room = sentAt.get(stamps[at]!) ?? new Map<number, number>();
      sentAt.set(stamps[at]!, room.set(stamps[at + 1]!, stamps[at + 2]!));
    }
    const found = new Float64Array(this.sampled);
    let count = 0;
    for (let at = 0; at < 3 * this.sampled; at += 3) {
      const sent = sentAt.get(this.samples[at]!)?.get(this.samples[at + 1]!);
      if (sent !== undefined) {
        found[count++] = this.samples[at + 2]! - sent;
      }
    }
    return found.subarray(0, count);
  }
}

goFirst(0);
const load = new Load();
process.on('message', ({ id, request }: { id: number; request: Request }) => {
  load.answer(request).then(
    (answer) => process.send?.({ id, answer }),
    (error: unknown) => process.send?.({ id, error: String(error) }),
  );
});
process.on('disconnect', () => process.exit());
