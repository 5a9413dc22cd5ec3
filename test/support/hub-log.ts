import { TaskwireError } from '../../src/protocol/errors.js';
import type { TaskEvent } from '../../src/protocol/events.js';
import type { ReplayPage, ReplayQuery, ReplayState, Snapshot } from '../../src/repository/log.js';

export const USER = 'u';
/** Tasks 1 and 2 belong to job 1, task 3 to job 2. */
export const JOB_OF = ['', '1', '1', '2'];
export const ROOMS = ['job:1', 'job:2', 'task:1', 'task:2', 'task:3', 'user:u'];

export const inRoom = (event: { jobId: string; taskId: number }, room: string): boolean =>
  room === `user:${USER}` || room === `job:${event.jobId}` || room === `task:${event.taskId}`;

/** The truth: what was committed, up to where the log was trimmed, and what was before it was restored. */
export class ReferenceLog {
  epoch = 'epoch1';
  events: TaskEvent[] = [];
  floor = 0;
  private readonly before = new Map<string, readonly TaskEvent[]>();

  /** @param unpublished whether it is the change of another program */
  write(taskId: number, unpublished = false): TaskEvent {
    const event: TaskEvent = {
      type: 'TASK_UPDATED',
      userId: USER,
      seq: this.events.length + 1,
      epoch: this.epoch,
      jobId: JOB_OF[taskId]!,
      taskId,
      changes: `{"epoch":"${this.epoch}"}`,
      timestamp: '2024-01-01T00:00:00.000Z',
      ...(unpublished ? { unpublished } : {}),
    };
    this.events.push(event);
    return event;
  }

  /** Goes back to a backup of some events ago. */
  restore(lost: number): void {
    this.before.set(this.epoch, this.events);
    this.epoch = `epoch${this.before.size + 1}`;
    const kept = this.events.slice(0, Math.max(0, this.events.length - lost));
    this.events = kept.map((event) => ({ ...event, epoch: this.epoch, changes: `{"epoch":"${this.epoch}"}` }));
    this.floor = Math.min(this.floor, this.events.length);
  }

  /** All events of an epoch, whether the log still has them or not. */
  history(epoch: string): readonly TaskEvent[] {
    return epoch === this.epoch ? this.events : this.before.get(epoch)!;
  }

  state(): ReplayState {
    return { seq: this.events.length, epoch: this.epoch, floor: this.floor };
  }

  read({ rooms, limit }: ReplayQuery): ReplayPage {
    const found = this.events.filter(
      (event) =>
        event.seq > this.floor &&
        rooms.some(({ kind, id, after }) => event.seq > after && inRoom(event, `${kind}:${id}`)),
    );
    return { ...this.state(), events: found.slice(0, limit), complete: found.length <= limit };
  }

  /** Rows of a room: each task with the `seq` of what happened to it last. */
  rows(room: string): Map<number, number> {
    return new Map(this.events.filter((event) => inRoom(event, room)).map(({ taskId, seq }) => [taskId, seq]));
  }

  /** The newest tasks of a room, of those below an id. */
  tasks(
    room: string,
    limit: number,
    before = Number.POSITIVE_INFINITY,
  ): Pick<Snapshot, 'tasks' | 'truncated' | 'oldest'> {
    const below = [...this.rows(room)].filter(([id]) => id < before).sort(([one], [other]) => one - other);
    const newest = below.slice(-limit);
    return {
      tasks: JSON.stringify(newest.map(([task_id, seq]) => ({ task_id, seq }))),
      truncated: below.length > newest.length,
      oldest: newest[0]?.[0],
    };
  }
}

interface Waiter {
  answer(): void;
  fail(): void;
}

/** Reads of the log that are under way: each is answered when the test says so, as of the call or as of the answer. */
export class Gate {
  private readonly waiting: Waiter[] = [];
  private calls = 0;

  run<T>(compute: () => T): Promise<T> {
    this.calls += 1;
    const early = this.calls % 2 === 0 ? { value: compute() } : undefined;
    return new Promise((resolve, reject) => {
      this.waiting.push({
        answer: () => resolve(early === undefined ? compute() : early.value),
        fail: () => reject(new TaskwireError('DATABASE_UNAVAILABLE')),
      });
    });
  }

  /** Reads that wait for their answer. */
  get size(): number {
    return this.waiting.length;
  }

  /** Answers one read. @returns whether there was one */
  release(pick: number): boolean {
    const waiter = this.take(pick);
    waiter?.answer();
    return waiter !== undefined;
  }

  fail(pick: number): void {
    this.take(pick)?.fail();
  }

  private take(pick: number): Waiter | undefined {
    return this.waiting.splice(pick % Math.max(1, this.waiting.length), 1)[0];
  }
}
