import type { Job } from './writers.js';

/** Tasks that several writers write to. Some are deleted meanwhile: who finds one gone says so. */
export class SharedTasks {
  private readonly tasks = new Map<number, Job>();

  constructor(
    readonly jobs: readonly Job[],
    readonly next: () => number,
    /** About as many tasks as there are. */
    private readonly wanted: number,
  ) {}

  get ids(): number[] {
    return [...this.tasks.keys()];
  }

  /** Whether one more should be made. */
  get few(): boolean {
    return this.tasks.size < this.wanted;
  }

  add(id: number, job: Job): void {
    this.tasks.set(id, job);
  }

  gone(id: number): void {
    this.tasks.delete(id);
  }

  pick<Item>(items: readonly Item[]): Item {
    return items[Math.floor(this.next() * items.length)]!;
  }

  /** One task; there is always one that was there. */
  one(): number {
    return this.pick(this.ids);
  }

  job(): Job {
    return this.pick(this.jobs);
  }

  jobOf(id: number): Job {
    return this.tasks.get(id) ?? this.job();
  }

  /** Some tasks, in the order in which whoever writes several has to lock them. */
  some(share = 0.2): number[] {
    return this.ids.filter(() => this.next() < share).sort((a, b) => a - b);
  }

  /** The same of one user. */
  someOf(userId: string, most: number): number[] {
    return this.ids
      .filter((id) => this.tasks.get(id)!.userId === userId)
      .sort(() => this.next() - 0.5)
      .slice(0, most)
      .sort((a, b) => a - b);
  }
}
