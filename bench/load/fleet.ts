import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { pinned } from '../lib/machine.js';
import type { Target } from './connection.js';
import type { Counted, Ended, Expected, Opened, Pace, Request } from './messages.js';

const WORKER = fileURLToPath(new URL('worker.js', import.meta.url));

/** Where it is not said otherwise. */
const PACE: Pace = { parallel: 64 };

/** The clients of a run, as the driver sees them: some load processes that share the connections. */
export class Fleet {
  private readonly members: Member[];

  /** @param cores where the processes run, as taskset takes it */
  constructor(processes: number, cores: string | undefined) {
    this.members = Array.from({ length: processes }, () => new Member(cores));
  }

  /** @param accounts number of the room whose events each connection counts; -1: none */
  async open(
    targets: readonly Target[],
    rooms: ReadonlyArray<readonly string[]>,
    accounts: readonly number[],
    pace = PACE,
  ): Promise<Opened> {
    const { length } = this.members;
    const share = Math.ceil(rooms.length / length);
    return joinOpened(
      await Promise.all(
        this.members.map((member, place) => {
          const [from, to] = [place * share, (place + 1) * share];
          return member.ask<Opened>({
            do: 'open',
            targets,
            rooms: rooms.slice(from, to),
            accounts: accounts.slice(from, to),
            pace: shareOf(pace, length),
          });
        }),
      ),
    );
  }

  /** Sets up again what was dropped, all at once. */
  async reopen(resume: boolean): Promise<Opened> {
    return joinOpened(await this.all<Opened>({ do: 'reopen', resume }));
  }

  async drop(): Promise<void> {
    await this.all({ do: 'drop' });
  }

  async begin(every: number): Promise<void> {
    await this.all({ do: 'begin', every });
  }

  async count(): Promise<Counted> {
    return joinCounted(await this.all<Counted>({ do: 'count' }));
  }

  async end(expected: Expected): Promise<Ended> {
    const parts = await this.all<Ended>({ do: 'end', expected });
    const sum = (field: 'lost' | 'extra' | 'wrong' | 'disordered' | 'closed'): number =>
      parts.reduce((total, part) => total + part[field], 0);
    return {
      ...joinCounted(parts),
      lost: sum('lost'),
      extra: sum('extra'),
      wrong: sum('wrong'),
      disordered: sum('disordered'),
      closed: sum('closed'),
      problems: parts.flatMap(({ problems }) => problems),
      latencies: joined(parts.map(({ latencies }) => latencies)),
    };
  }

  async stop(): Promise<void> {
    await Promise.all(this.members.map((member) => member.stop()));
  }

  private all<Answer>(request: Request): Promise<Answer[]> {
    return Promise.all(this.members.map((member) => member.ask<Answer>(request)));
  }
}

const shareOf = (pace: Pace, members: number): Pace =>
  'parallel' in pace ? { parallel: Math.ceil(pace.parallel / members) } : { perSecond: pace.perSecond / members };

function joined(parts: readonly Float64Array[]): Float64Array {
  const whole = new Float64Array(parts.reduce((total, { length }) => total + length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function joinCounted(parts: readonly Counted[]): Counted {
  return {
    delivered: parts.reduce((total, part) => total + part.delivered, 0),
    lastMicros: Math.max(...parts.map(({ lastMicros }) => lastMicros)),
    cpuMicros: parts.reduce((total, part) => total + part.cpuMicros, 0),
  };
}

function joinOpened(parts: readonly Opened[]): Opened {
  const sum = (field: 'ready' | 'failed' | 'retries' | 'replayed' | 'unrecovered'): number =>
    parts.reduce((total, part) => total + part[field], 0);
  return {
    ready: sum('ready'),
    failed: sum('failed'),
    retries: sum('retries'),
    replayed: sum('replayed'),
    unrecovered: sum('unrecovered'),
    problems: parts.flatMap(({ problems }) => problems),
    latencies: joined(parts.map(({ latencies }) => latencies)),
  };
}

interface Waiting {
  resolve(answer: unknown): void;
  reject(error: Error): void;
}

class Member {
  private readonly child: ChildProcess;
  private readonly waiting = new Map<number, Waiting>();
  private readonly exited: Promise<void>;
  private count = 0;

  constructor(cores: string | undefined) {
    const [command, args] = pinned(cores, [process.execPath, WORKER]);
    this.child = spawn(command, args, { stdio: ['ignore', 'inherit', 'inherit', 'ipc'], serialization: 'advanced' });
    this.child.on('message', ({ id, answer, error }: { id: number; answer?: unknown; error?: string }) => {
      const waiting = this.waiting.get(id);
      this.waiting.delete(id);
      if (error === undefined) {
        waiting?.resolve(answer);
      } else {
        waiting?.reject(new Error(error));
      }
    });
    this.exited = new Promise((resolve) => {
      this.child.once('exit', (code, signal) => {
        for (const { reject } of this.waiting.values()) {
          reject(new Error(`a load process ended with ${code ?? signal}`));
        }
        resolve();
      });
    });
  }

  ask<Answer>(request: Request): Promise<Answer> {
    this.count += 1;
    const id = this.count;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve: resolve as (answer: unknown) => void, reject });
      this.child.send({ id, request });
    });
  }

  async stop(): Promise<void> {
    if (this.child.connected) {
      this.child.disconnect();
    }
    await this.exited;
  }
}
