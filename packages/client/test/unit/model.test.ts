import { createTaskwire, type RoomHandle, type StreamItem, type Taskwire } from '@taskwire/client';
import { expect } from 'chai';
import fc from 'fast-check';
import { SimServer } from '../support/sim-server.js';
import { VirtualTime } from '../support/virtual-time.js';

const RUNS = Number(process.env['CLIENT_MODEL_RUNS'] ?? 150);
const JOBS = { '1': 'alice', '2': 'alice', '3': 'bob' } as const;
const ROOMS = ['job:1', 'job:2', 'job:3', 'user:alice', 'user:bob', 'task:1', 'task:2'] as const;

type Step =
  | { do: 'create'; job: keyof typeof JOBS }
  | { do: 'write'; task: number; field: 'task_status' | 'task_error' | 'tx_url' | 'task_opx_cost'; value: number }
  | { do: 'delete'; task: number }
  | { do: 'parts'; tasks: number }
  | { do: 'watch' | 'unwatch'; room: (typeof ROOMS)[number]; rendered?: number }
  | { do: 'cut' | 'freeze' | 'sleep' | 'wake' | 'check' }
  | { do: 'down'; down: boolean }
  | { do: 'hole'; hole: boolean }
  | { do: 'outage'; chance: number }
  | { do: 'copies' | 'split'; chance: number }
  | { do: 'trim'; user: 'alice' | 'bob'; keep: number }
  | { do: 'restore'; user: 'alice' | 'bob'; lose: number }
  | { do: 'pass'; ms: number };

const user = fc.constantFrom('alice' as const, 'bob' as const);
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constant('create' as const),
      job: fc.constantFrom('1' as const, '2' as const, '3' as const),
    }),
  },
  {
    weight: 10,
    arbitrary: fc.record({
      do: fc.constant('write' as const),
      task: fc.integer({ min: 1, max: 6 }),
      field: fc.constantFrom(
        'task_status' as const,
        'task_error' as const,
        'tx_url' as const,
        'task_opx_cost' as const,
      ),
      value: fc.nat(),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('delete' as const), task: fc.integer({ min: 1, max: 6 }) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('parts' as const), tasks: fc.constantFrom(1, 2, 100) }) },
  {
    weight: 6,
    arbitrary: fc.record({
      do: fc.constantFrom('watch' as const, 'unwatch' as const),
      room: fc.constantFrom(...ROOMS),
      rendered: fc.integer({ min: -4, max: 8 }),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constantFrom('cut' as const, 'freeze' as const, 'sleep' as const, 'wake' as const, 'check' as const),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('down' as const), down: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('hole' as const), hole: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('outage' as const), chance: fc.constantFrom(0, 0.5) }) },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constantFrom('copies' as const, 'split' as const), chance: fc.constantFrom(0, 0.5) }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('trim' as const), user, keep: fc.nat(3) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('restore' as const), user, lose: fc.nat(3) }) },
  {
    weight: 10,
    arbitrary: fc.record({ do: fc.constant('pass' as const), ms: fc.constantFrom(1, 5, 20, 100, 3_000, 60_000) }),
  },
);

interface Watched {
  readonly handle: RoomHandle<unknown>;
  readonly stop: () => void;
}

/** A page against the simulated server. After each change it checks that what a room shows is what was true at its position. */
class Page {
  readonly time: VirtualTime;
  readonly server: SimServer;
  readonly tw: Taskwire;
  readonly faults: string[] = [];
  private readonly watched = new Map<string, Watched>();
  private restores = 0;

  constructor(seed: number) {
    this.time = new VirtualTime(seed);
    this.server = new SimServer(this.time);
    for (const [job, owner] of Object.entries(JOBS)) {
      this.server.addJob(job, owner);
      this.server.create(job);
    }
    this.tw = createTaskwire({ url: 'sim:', transport: this.server.transport, surroundings: this.time });
  }

  async run(steps: readonly Step[]): Promise<void> {
    for (const one of steps) {
      await this.step(one);
    }
    // The weather clears up, and everything is right again.
    Object.assign(this.server, { down: false, blackHole: false });
    Object.assign(this.server.weather, { outage: 0, copies: 0, split: 0 });
    this.tw.wake();
    await this.time.pass(300_000);
    for (const [room, { handle }] of this.watched) {
      const { status, tasks, truncated } = handle.getSnapshot();
      expect({ room, status, truncated }).to.deep.equal({ room, status: 'live', truncated: false });
      expect(tasks, room).to.deep.equal(this.server.rows(room));
    }
    expect(this.faults).to.deep.equal([]);
    for (const { stop } of this.watched.values()) {
      stop();
    }
    await this.time.pass(10_000);
    expect(this.tw.connection.state).to.equal('idle');
    expect(this.server.connections.size).to.equal(0);
    this.tw.close();
  }

  private async step(one: Step): Promise<void> {
    const { server, time, tw } = this;
    switch (one.do) {
      case 'create':
        server.create(one.job);
        break;
      case 'write':
        if (server.owners.has(`task:${one.task}`) && server.rows(`task:${one.task}`).length > 0) {
          server.write(one.task, one.field, one.value);
        }
        break;
      case 'delete':
        if (server.jobs.has(one.task)) {
          // What was deleted may come again, under its id.
          const gone = server.rows(`task:${one.task}`).length === 0;
          gone ? server.create(server.jobs.get(one.task)!, one.task) : server.delete(one.task);
        }
        break;
      case 'parts':
        server.weather.tasks = one.tasks;
        break;
      case 'watch':
        this.watch(one.room, one.rendered ?? -1);
        break;
      case 'unwatch':
        this.watched.get(one.room)?.stop();
        this.watched.delete(one.room);
        break;
      case 'cut':
        for (const connection of [...server.connections]) {
          server.cut(connection);
        }
        break;
      case 'freeze':
        time.freeze(40_000);
        break;
      case 'sleep':
      case 'wake':
        tw[one.do]();
        break;
      case 'check':
        tw.wake();
        break;
      case 'down':
        server.down = one.down;
        break;
      case 'hole':
        server.blackHole = one.hole;
        break;
      case 'outage':
        server.weather.outage = one.chance;
        break;
      case 'copies':
      case 'split':
        server.weather[one.do] = one.chance;
        break;
      case 'trim':
        server.trim(one.user, one.keep);
        break;
      case 'restore':
        // A task that was lost with the backup is one that nobody may ask for any more: the first of each job stay.
        this.restores += 1;
        if (server.stream(one.user).log.length - one.lose >= 2) {
          server.restore(one.user, one.lose);
        }
        break;
      case 'pass':
        await time.pass(one.ms);
    }
  }

  /** @param rendered position of the rows that the page has from elsewhere, counted back from now; below 0: it has none */
  private watch(room: (typeof ROOMS)[number], rendered: number): void {
    if (this.watched.has(room) || (room.startsWith('task:') && this.server.rows(room).length === 0)) {
      return;
    }
    const [kind, id] = room.split(':') as ['job' | 'task' | 'user', string];
    const { log, epoch } = this.server.stream(this.server.owners.get(room)!);
    const seq = Math.max(1, log.length - rendered);
    const initialData = rendered < 0 ? undefined : { tasks: this.server.rows(room, seq), position: { seq, epoch } };
    const handle = this.tw[kind](id, { initialData }) as RoomHandle<unknown>;
    const stop = new AbortController();
    const unsubscribe = handle.subscribe(() => this.look(room, handle));
    void this.follow(room, handle.events({ signal: stop.signal }));
    this.watched.set(room, {
      handle,
      stop: () => {
        unsubscribe();
        stop.abort();
      },
    });
  }

  private look(room: string, handle: RoomHandle<unknown>): void {
    const { position, tasks } = handle.getSnapshot();
    const { epoch } = this.server.stream(this.server.owners.get(room)!);
    if (position?.epoch === epoch) {
      const due = this.server.rows(room, position.seq);
      if (JSON.stringify(sorted(due)) !== JSON.stringify(sorted(tasks))) {
        this.faults.push(`${room} at ${position.seq}: ${JSON.stringify(tasks)} instead of ${JSON.stringify(due)}`);
      }
    }
  }

  /** Every event of the room once and in order; where one is missing, a RESYNC stands for it. */
  private async follow(room: string, items: AsyncIterable<StreamItem>): Promise<void> {
    let last: { seq: number; epoch: string } | undefined;
    for await (const item of items) {
      const { position } = item;
      const stream = this.server.stream(this.server.owners.get(room)!);
      if (item.type !== 'RESYNC' && last?.epoch === position.epoch && stream.epoch === position.epoch) {
        const { seq } = last;
        const missed = stream.log.filter(
          (event) => event.seq > seq && event.seq < item.seq && roomsOf(event).includes(room),
        );
        if (item.seq <= seq || missed.length > 0) {
          this.faults.push(`${room}: after ${seq} came ${item.seq}, between them ${missed.map((event) => event.seq)}`);
        }
      }
      last = position;
    }
  }
}

const roomsOf = ({ data }: { data: { job_id: string; task_id: number; user_id: string } }): string[] => [
  `job:${data.job_id}`,
  `task:${data.task_id}`,
  `user:${data.user_id}`,
];

const sorted = (rows: readonly object[]): unknown =>
  rows.map((row) => Object.entries(row).sort(([a], [b]) => (a < b ? -1 : 1)));

describe('the client against a simulated server', function () {
  this.timeout(120_000);

  it('shows at each moment what was true at its position, loses no event in silence, and is right in the end', async () => {
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1 }), fc.array(step, { maxLength: 60, size: 'max' }), async (seed, steps) => {
        await new Page(seed).run(steps);
      }),
      { numRuns: RUNS },
    );
  });
});
