import type { Worker } from 'node:cluster';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from '../base/logger.js';
import { EXIT_CONFIG } from '../config.js';
import { isMessage, type WorkerDrain, type WorkerReady } from './messages.js';
import { endWaitingWith, setEligible } from './sticky-listener.js';

export interface WorkerPoolOptions {
  readonly size: number;
  readonly fork: () => Worker;
  readonly logger: Logger;
  /** How long a worker may take to send its connections away and end, in milliseconds. */
  readonly drainMs: number;
  /** Told when workers cannot start at all; the pool does nothing more. */
  readonly onGiveUp: (exitCode: number) => void;
}

type State = 'starting' | 'ready' | 'draining';

interface Member {
  readonly worker: Worker;
  state: State;
  readonly startedAt: number;
  /** Resolves when it is ready (true) or has ended (false), whichever is first. */
  readonly started: Promise<boolean>;
  readonly ended: Promise<void>;
}

/** A worker that lived so long ended for another reason than that it could not start. */
const STABLE_MS = 5_000;
const BACKOFF_MS = 100;
const MAX_BACKOFF_MS = 10_000;
/** Starts in a row that may fail while nobody serves. */
const MAX_FAILED_STARTS = 8;

/** Keeps a number of workers alive: revives them, replaces them one by one, and ends them. */
export class WorkerPool {
  private readonly members = new Set<Member>();
  /** Ends in a row of workers that did not live long. */
  private failures = 0;
  /** Starts in a row that failed. */
  private failedStarts = 0;
  private ending = false;
  private rolling: Promise<void> | undefined;
  private rollAgain = false;
  private firstReady: (() => void) | undefined;
  private reviving: NodeJS.Timeout | undefined;

  constructor(private readonly options: WorkerPoolOptions) {}

  /** Workers that take connections. */
  get readyCount(): number {
    return this.count('ready');
  }

  /** Resolves when the first worker is ready. */
  async start(): Promise<void> {
    const ready = new Promise<void>((resolve) => {
      this.firstReady = resolve;
    });
    this.fill();
    await ready;
  }

  /**
   * Replaces every worker, one by one: the new one is ready before the old one sends its connections away. Called again meanwhile, it
   * does so once more afterwards.
   */
  roll(): Promise<void> {
    if (this.rolling !== undefined) {
      this.rollAgain = true;
      return this.rolling;
    }
    this.rolling = this.rollAll().finally(() => {
      this.rolling = undefined;
      if (this.rollAgain) {
        this.rollAgain = false;
        void this.roll();
      }
    });
    return this.rolling;
  }

  /** Ends all workers in order; none is revived. */
  async drain(): Promise<void> {
    this.ending = true;
    clearTimeout(this.reviving);
    await Promise.all([...this.members].map((member) => this.retire(member)));
  }

  /** Ends all workers at once. */
  kill(): void {
    this.ending = true;
    clearTimeout(this.reviving);
    for (const { worker } of this.members) {
      worker.process.kill('SIGKILL');
    }
  }

  private async rollAll(): Promise<void> {
    const { logger } = this.options;
    logger.info('replacing workers', { workers: this.members.size });
    for (const old of [...this.members]) {
      if (this.ending) {
        return;
      }
      if (this.members.has(old) && old.state !== 'draining') {
        if (!(await this.spawn().started)) {
          logger.error('a new worker did not start; the others stay as they are');
          return;
        }
        await this.retire(old);
      }
    }
    logger.info('workers replaced');
  }

  private count(state: State): number {
    return [...this.members].filter((member) => member.state === state).length;
  }

  /** Starts workers until there are enough. */
  private fill(): void {
    for (let missing = this.options.size - this.count('starting') - this.count('ready'); missing > 0; missing -= 1) {
      this.spawn();
    }
  }

  private spawn(): Member {
    const worker = this.options.fork();
    endWaitingWith(worker);
    setEligible(worker, false);
    const ended = new Promise<void>((resolve) => {
      worker.once('exit', () => resolve());
    });
    const ready = new Promise<boolean>((resolve) => {
      worker.on('message', (message: unknown) => {
        if (isMessage<WorkerReady>(message, 'worker:ready')) {
          resolve(true);
        }
      });
    });
    const member: Member = {
      worker,
      state: 'starting',
      startedAt: performance.now(),
      started: Promise.race([ready, ended.then(() => false)]),
      ended,
    };
    this.members.add(member);
    worker.once('exit', (code: number | null, signal: string | null) => this.left(member, code, signal));
    worker.on('error', (error) => this.options.logger.warn('worker', { worker: worker.process.pid, error }));
    void member.started.then((started) => started && this.arrived(member));
    return member;
  }

  private arrived(member: Member): void {
    if (member.state === 'starting') {
      member.state = 'ready';
      setEligible(member.worker, true);
      this.failedStarts = 0;
      this.options.logger.info('worker ready', { worker: member.worker.process.pid });
      this.firstReady?.();
    }
  }

  private left(member: Member, code: number | null, signal: string | null): void {
    this.members.delete(member);
    const { logger } = this.options;
    const fields = { worker: member.worker.process.pid, code, signal };
    if (member.state === 'draining') {
      logger.info('worker ended', fields);
      return;
    }
    if (this.ending) {
      return;
    }
    this.failures = performance.now() - member.startedAt >= STABLE_MS ? 0 : this.failures + 1;
    this.failedStarts = member.state === 'starting' ? this.failedStarts + 1 : 0;
    if (this.readyCount === 0 && (code === EXIT_CONFIG || this.failedStarts >= MAX_FAILED_STARTS)) {
      logger.error('workers cannot start, giving up', { ...fields, attempts: this.failedStarts });
      this.kill();
      this.options.onGiveUp(code === EXIT_CONFIG ? EXIT_CONFIG : 1);
      return;
    }
    const delay = this.failures === 0 ? 0 : Math.min(MAX_BACKOFF_MS, BACKOFF_MS * 2 ** this.failures);
    logger.error('worker ended unexpectedly', { ...fields, revived_in_ms: delay });
    clearTimeout(this.reviving);
    this.reviving = setTimeout(() => this.fill(), delay);
  }

  private async retire(member: Member): Promise<void> {
    member.state = 'draining';
    setEligible(member.worker, false);
    const drain: WorkerDrain = { type: 'worker:drain' };
    // Somebody who is gone need not be told.
    member.worker.send(drain, () => {});
    const patience = new AbortController();
    void sleep(this.options.drainMs, undefined, { signal: patience.signal }).then(
      () => member.worker.process.kill('SIGKILL'),
      () => {},
    );
    await member.ended;
    patience.abort();
  }
}
