import type { Worker } from 'node:cluster';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from '../base/logger.js';
import { channelToWorker, type PrimaryChannel } from '../base/process-messages.js';
import { EXIT_CONFIG } from '../config.js';
import { BEAT_MS, Heartbeat } from './heartbeat.js';
import type { HandOver } from './sticky-corrections.js';

export interface WorkerPoolOptions {
  readonly size: number;
  /**
   * Starts a worker process.
   * @param slot its number, from 0 to `size` - 1; two workers share it while one replaces the other
   */
  readonly fork: (slot: number) => Worker;
  /** Takes a new worker in, where the primary hands connections over. */
  readonly handOverTo: ((worker: Worker) => HandOver) | undefined;
  /** Whether workers whose event loop hangs are replaced. Off with a debugger, which halts it. */
  readonly watch: boolean;
  readonly logger: Logger;
  /** How long a worker may take to send its connections away and end, in milliseconds. */
  readonly drainMs: number;
  /** Called when the first worker can serve, and when the last one no longer can. */
  readonly onServing: (serving: boolean) => void;
  /** Called when workers cannot start at all; the pool does nothing more. */
  readonly onGiveUp: (exitCode: number) => void;
}

/** Most dead workers that a new one is told of, and how long ago they may have died, in milliseconds: by then their leases have ended. */
const MAX_DEAD = 1_000;
const DEAD_MS = 60_000;

type State = 'starting' | 'ready' | 'draining';

interface Member {
  readonly worker: Worker;
  readonly slot: number;
  readonly channel: PrimaryChannel;
  readonly handOver: HandOver | undefined;
  readonly heartbeat: Heartbeat;
  state: State;
  /** Its broker's id, when it has been ready. */
  nodeId: string | undefined;
  /** Its event loop hangs. */
  silent: boolean;
  readonly startedAt: number;
  /** Resolves when it is ready (true) or has ended (false), whichever is first. */
  readonly started: Promise<boolean>;
  readonly ended: Promise<void>;
}

/** A worker that lived so long has started well, in milliseconds. */
const STABLE_MS = 5_000;
/** How long a worker is not told to drain while connections are on their way to it, in milliseconds. */
const HAND_OVER_MS = 1_000;
const BACKOFF_MS = 100;
const MAX_BACKOFF_MS = 10_000;
/** Failed starts in a row, while no worker serves, after which the pool gives up. */
const MAX_FAILED_STARTS = 8;

/** Keeps a number of workers alive: watches and revives them, replaces them one by one, and ends them. */
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
  private serving = false;
  private watching: NodeJS.Timeout | undefined;
  /** Workers that died a short while ago. Whoever was told of them, to give back what they held, may have died as well. */
  private dead: Array<{ readonly nodeId: string; readonly at: number }> = [];

  constructor(private readonly options: WorkerPoolOptions) {}

  /** Resolves when the first worker is ready. */
  async start(): Promise<void> {
    const ready = new Promise<void>((resolve) => {
      this.firstReady = resolve;
    });
    this.fill();
    if (this.options.watch) {
      this.watching = setInterval(() => this.look(), BEAT_MS).unref();
    }
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
    await Promise.all([...this.members].map((member) => this.drainOne(member)));
    clearInterval(this.watching);
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
        if (!(await this.spawn(old.slot).started)) {
          if (this.ending) {
            return;
          }
          logger.error('a new worker did not start; the others stay as they are');
          return;
        }
        await this.drainOne(old);
      }
    }
    logger.info('workers replaced');
  }

  /** Starts workers until there is one for each slot. */
  private fill(): void {
    const taken = new Set([...this.members].filter(({ state }) => state !== 'draining').map(({ slot }) => slot));
    for (let slot = 0; slot < this.options.size; slot += 1) {
      if (!taken.has(slot)) {
        this.spawn(slot);
      }
    }
  }

  private spawn(slot: number): Member {
    const worker = this.options.fork(slot);
    const channel = channelToWorker(worker);
    const handOver = this.options.handOverTo?.(worker);
    const heartbeat = new Heartbeat();
    const ended = new Promise<void>((resolve) => {
      worker.once('exit', () => resolve());
    });
    const ready = new Promise<boolean>((resolve) => {
      channel.onMessage((message) => {
        if (message.type === 'taskwire:ready') {
          heartbeat.heard();
          member.nodeId = message.nodeId;
          resolve(true);
        } else if (message.type === 'taskwire:alive') {
          heartbeat.heard();
        } else if (message.type === 'taskwire:closed') {
          handOver?.closed(message.connections);
        }
      });
    });
    const member: Member = {
      worker,
      slot,
      channel,
      handOver,
      heartbeat,
      state: 'starting',
      nodeId: undefined,
      silent: false,
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
      this.failedStarts = 0;
      this.options.logger.info('worker ready', { worker: member.worker.process.pid });
      this.share();
      for (const { nodeId } of this.recentlyDead()) {
        tellOf(member, nodeId);
      }
      this.firstReady?.();
    }
  }

  /** Checks which workers' event loops run. */
  private look(): void {
    let changed = false;
    for (const member of this.members) {
      if (member.state === 'draining') {
        continue;
      }
      const pulse = member.heartbeat.look();
      const fields = { worker: member.worker.process.pid };
      if (pulse === 'lost' && !member.worker.process.killed) {
        this.options.logger.error('worker does not answer: it is killed and replaced', fields);
        member.worker.process.kill('SIGKILL');
      } else if (member.state === 'ready' && (pulse === 'silent') !== member.silent) {
        member.silent = pulse === 'silent';
        changed = true;
        if (member.silent) {
          this.options.logger.warn('worker does not answer: it gets no new connections', fields);
        } else {
          this.options.logger.info('worker answers again', fields);
        }
      }
    }
    if (changed) {
      this.share();
    }
  }

  /**
   * Sets which workers get connections: those that are ready. A silent one gets none, and connections that wait for it go to
   * others, if there are any.
   */
  private share(): void {
    const ready = [...this.members].filter(({ state }) => state === 'ready');
    const answering = ready.filter(({ silent }) => !silent);
    for (const { handOver } of answering) {
      handOver?.take('all');
    }
    for (const { handOver, silent } of ready) {
      if (silent) {
        handOver?.take(answering.length > 0 ? 'nothing' : 'all');
      }
    }
    const serving = ready.length > 0;
    if (serving !== this.serving) {
      this.serving = serving;
      this.options.onServing(serving);
    }
  }

  /**
   * Tells all workers that have begun to serve of one that died: one of them may hang, drain or die itself.
   * Those that begin to serve later are told too.
   */
  private tellOfDead(nodeId: string): void {
    this.dead = [...this.recentlyDead(), { nodeId, at: performance.now() }].slice(-MAX_DEAD);
    for (const member of this.members) {
      if (member.nodeId !== undefined) {
        tellOf(member, nodeId);
      }
    }
  }

  private recentlyDead(): typeof this.dead {
    const before = performance.now() - DEAD_MS;
    return this.dead.filter(({ at }) => at > before);
  }

  private left(member: Member, code: number | null, signal: string | null): void {
    this.members.delete(member);
    this.share();
    const { logger } = this.options;
    const fields = { worker: member.worker.process.pid, code, signal };
    // Only a worker that has drained, and then ended by itself, has given back what it held.
    if (member.nodeId !== undefined && !(member.state === 'draining' && code === 0)) {
      this.tellOfDead(member.nodeId);
    }
    if (member.state === 'draining') {
      logger.info('worker ended', fields);
      return;
    }
    if (this.ending) {
      return;
    }
    this.failures = performance.now() - member.startedAt >= STABLE_MS ? 0 : this.failures + 1;
    this.failedStarts = member.state === 'starting' ? this.failedStarts + 1 : 0;
    if (!this.serving && (code === EXIT_CONFIG || this.failedStarts >= MAX_FAILED_STARTS)) {
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

  /** Has a worker send its connections away and exit; kills it when that takes too long. */
  private async drainOne(member: Member): Promise<void> {
    const starting = member.state === 'starting';
    member.state = 'draining';
    member.handOver?.take('sessions');
    this.share();
    await handedOver(member);
    try {
      member.channel.send({ type: 'taskwire:drain' });
    } catch {
      // It is gone already.
    }
    if (starting) {
      // Node.js drops messages that come before the program listens. A signal works at any time: it ends the process while
      // that loads, and drains it afterwards.
      member.worker.process.kill('SIGTERM');
    }
    const patience = new AbortController();
    void sleep(this.options.drainMs, undefined, { signal: patience.signal }).then(
      () => {
        const { pid } = member.worker.process;
        this.options.logger.warn('worker has not drained in time: it is killed', { worker: pid });
        member.worker.process.kill('SIGKILL');
      },
      () => {},
    );
    await member.ended;
    patience.abort();
  }
}

/** Resolves when a worker has all connections that were meant for it: one that has nothing to do would end before they come. */
async function handedOver({ handOver, worker }: Member): Promise<void> {
  const end = performance.now() + HAND_OVER_MS;
  while (handOver?.busy === true && worker.isConnected() && performance.now() < end) {
    await sleep(1);
  }
}

/** Tells a worker of another one that died. */
function tellOf({ channel }: Member, nodeId: string): void {
  try {
    channel.send({ type: 'taskwire:died', nodeId });
  } catch {
    // It is gone too.
  }
}
