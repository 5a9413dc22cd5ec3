import { BLANK_TASK } from '../../../../dist/test/support/rows.js';
import type {
  Answer,
  Incoming,
  Link,
  LinkEvents,
  Position,
  SubscribeRequest,
  TaskEvent,
  TaskRow,
  Transport,
} from './types.js';
import type { VirtualTime } from './virtual-time.js';

interface Stream {
  epoch: string;
  /** Events from 1. */
  log: TaskEvent[];
  /** Events up to here cannot be replayed any more. */
  floor: number;
}

interface Place {
  readonly room: string;
  readonly from: number;
}

/** A room on its way in. */
interface Joining extends Place {
  readonly recovered: boolean;
  replayed: number;
  /** The client has the room up to here. */
  after: number;
  /** Tasks with lower ids are in the parts to come. */
  below: number;
}

/** How the server and the network behave, in milliseconds and chances from 0 to 1. */
export interface Weather {
  latencyMs: number;
  /** How long a look-up of a room's owner takes at most. */
  lookupMs: number;
  /** Chance that a SUBSCRIBE is refused for now. */
  outage: number;
  /** Chance that an event is sent twice. */
  copies: number;
  /** Chance that a connection is refused for now. */
  refusals: number;
  /** Chance that the rooms of one SUBSCRIBE are joined one after the other, as when it came in several messages. */
  split: number;
  /** Tasks of a snapshot, and of each part of one. */
  tasks: number;
}

/**
 * A taskwire server and its network, in virtual time: what docs/protocol.md says, and nothing kinder. Look-ups take their time,
 * one event reaches a connection once, whichever of its rooms it belongs to, and a room that is joined later does not get what
 * the connection had before.
 */
export class SimServer {
  readonly streams = new Map<string, Stream>();
  readonly owners = new Map<string, string>();
  /** The job of each task, also of those that are gone. */
  readonly jobs = new Map<number, string>();
  readonly connections = new Set<SimConnection>();
  /** Rooms that are refused for good. */
  readonly forbidden = new Set<string>();
  down = false;
  /** Links that the network has silently lost: nothing goes through, nobody is told. */
  blackHole = false;
  refusedForGood: string | undefined;
  weather: Weather = { latencyMs: 5, lookupMs: 20, outage: 0, copies: 0, refusals: 0, split: 0, tasks: 100 };
  opened = 0;
  readonly asked: SubscribeRequest[] = [];
  private tasks = 0;

  constructor(readonly time: VirtualTime) {}

  readonly transport: Transport = (_target, events) => new SimConnection(this, events);

  addJob(jobId: string, userId: string): void {
    this.owners.set(`job:${jobId}`, userId);
    this.owners.set(`user:${userId}`, userId);
    this.stream(userId);
  }

  stream(userId: string): Stream {
    let stream = this.streams.get(userId);
    if (stream === undefined) {
      stream = { epoch: `${userId}-1`, log: [], floor: 0 };
      this.streams.set(userId, stream);
    }
    return stream;
  }

  /** @param id of a task that was deleted, to make it again */
  create(jobId: string, id?: number): number {
    const user_id = this.owners.get(`job:${jobId}`)!;
    const task_id = id ?? ++this.tasks;
    this.owners.set(`task:${task_id}`, user_id);
    this.jobs.set(task_id, jobId);
    const ids = { task_id, job_id: jobId, user_id };
    this.commit('TASK_CREATED', ids, { ...BLANK_TASK, task_definition_id: 1, is_imua: false, created_at: 'then' });
    return task_id;
  }

  /** Writes one of the fields of a task, so that a row that missed a write is wrong for good. */
  write(
    taskId: number,
    field: 'task_status' | 'task_error' | 'tx_url' | 'task_opx_cost',
    value: string | number,
  ): void {
    const row = this.rows(`task:${taskId}`)[0]!;
    const { task_id, job_id, user_id } = row;
    const ids = { task_id, job_id, user_id };
    if (field === 'task_status') {
      const said = { old_status: row.task_status, new_status: value, task_status: value };
      this.commit('TASK_STATUS_CHANGED', ids, said);
    } else if (field === 'task_opx_cost') {
      this.commit('TASK_FEE_UPDATED', ids, { old_fee: row.task_opx_cost, new_fee: value, task_opx_cost: value });
    } else {
      this.commit('TASK_UPDATED', ids, { [field]: value });
    }
  }

  delete(taskId: number): void {
    const { task_id, job_id, user_id, task_status, task_opx_cost } = this.rows(`task:${taskId}`)[0]!;
    const said = { old_status: task_status, old_fee: task_opx_cost };
    this.commit('TASK_DELETED', { task_id, job_id, user_id }, said);
  }

  /** The log forgets all but the newest events. */
  trim(userId: string, keep: number): void {
    const stream = this.stream(userId);
    stream.floor = Math.max(stream.floor, stream.log.length - keep);
  }

  /** The database comes back from a backup: the last events never were, and the epoch is another one. */
  restore(userId: string, lose: number): void {
    const stream = this.stream(userId);
    stream.log.length = Math.max(0, stream.log.length - lose);
    stream.floor = Math.min(stream.floor, stream.log.length);
    stream.epoch += '+';
    for (const connection of [...this.connections]) {
      connection.end({ later: true, code: 'STREAM_RESET', message: 'reset' });
    }
  }

  /** The rows of a room at a position: what a client that stands there has to show. */
  rows(room: string, seq = Number.POSITIVE_INFINITY): TaskRow[] {
    const rows = new Map<number, Record<string, unknown>>();
    for (const event of this.stream(this.owners.get(room)!).log) {
      if (event.seq <= seq && belongs(event, room)) {
        const { old_status, new_status, old_fee, new_fee, ...fields } = event.data.changes as unknown as Record<
          string,
          unknown
        >;
        void [old_status, new_status, old_fee, new_fee];
        if (event.type === 'TASK_DELETED') {
          rows.delete(event.data.task_id);
          continue;
        }
        rows.set(event.data.task_id, { ...(rows.get(event.data.task_id) ?? BLANK_TASK), ...fields });
      }
    }
    return [...rows.values()].sort((a, b) => Number(a['task_id']) - Number(b['task_id'])) as unknown as TaskRow[];
  }

  cut(connection: SimConnection, code = 'CONNECTION_LOST'): void {
    connection.end({ later: true, code, message: code });
  }

  private commit(type: string, ids: { task_id: number; job_id: string; user_id: string }, changes: object): void {
    const stream = this.stream(ids.user_id);
    const event = {
      type,
      seq: stream.log.length + 1,
      data: { ...ids, changes: { ...ids, ...changes }, timestamp: 'then' },
      timestamp: 'then',
    } as TaskEvent;
    stream.log.push(event);
    for (const connection of this.connections) {
      connection.live(event);
    }
  }
}

const belongs = ({ data }: TaskEvent, room: string): boolean =>
  room === `job:${data.job_id}` || room === `task:${data.task_id}` || room === `user:${data.user_id}`;

const SNAPSHOTS: Readonly<Record<string, string>> = {
  job: 'JOB_TASKS_SNAPSHOT',
  task: 'TASK_SNAPSHOT',
  user: 'USER_TASKS_SNAPSHOT',
};

/** One connection: frames arrive in order, or not at all. */
export class SimConnection implements Link {
  private places = new Map<string, Place>();
  /** Users whose rooms wait while others of them catch up: what happens is sent from there. */
  private held = new Set<string>();
  /** What a catch-up has still to send, in order of its beginning. */
  private chain: Promise<void> = Promise.resolve();
  private arrivesAt = 0;
  private gone = false;
  private swallowed = false;
  private isOpen = false;
  /** Position up to which the joined rooms of each user have been served. */
  private served = new Map<string, number>();

  constructor(
    private readonly server: SimServer,
    private readonly events: LinkEvents,
  ) {
    const { time, weather } = server;
    time.setTimeout(() => {
      if (this.gone || server.blackHole) {
        return;
      }
      if (server.refusedForGood !== undefined) {
        this.events.ended({ later: false, code: server.refusedForGood, message: 'no' });
      } else if (server.down || time.random() < weather.refusals) {
        this.events.ended({ later: true, code: 'SERVER_DRAINING', message: 'later' });
      } else {
        this.isOpen = true;
        server.opened += 1;
        server.connections.add(this);
        this.events.opened();
      }
    }, weather.latencyMs);
  }

  send(type: string, data: unknown, answered: (answer: Answer) => void): void {
    this.travel(() => this.receive(type, data, answered), true);
  }

  close(): void {
    this.gone = true;
    this.server.connections.delete(this);
  }

  end(end: Parameters<LinkEvents['ended']>[0]): void {
    if (this.isOpen && !this.gone) {
      this.close();
      this.events.ended(end);
    }
  }

  /** An event that was committed just now. */
  live(event: TaskEvent): void {
    const { user_id } = event.data;
    if (this.held.has(user_id)) {
      return;
    }
    if ([...this.places.keys()].some((room) => belongs(event, room)) && event.seq > this.position(user_id)) {
      this.deliver(event);
    }
    if ([...this.places.keys()].some((room) => this.server.owners.get(room) === user_id)) {
      this.served.set(user_id, Math.max(this.position(user_id), event.seq));
    }
  }

  private position(userId: string): number {
    return this.served.get(userId) ?? 0;
  }

  private deliver(event: TaskEvent): void {
    this.travel(() => this.events.message(event));
    if (this.server.time.random() < this.server.weather.copies) {
      this.travel(() => this.events.message(event));
    }
  }

  /** Frames keep their order; what is on its way when the link ends is lost. */
  private travel(arrive: () => void, up = false): void {
    const { time, weather } = this.server;
    const at = time.now() + weather.latencyMs * (1 + time.random());
    this.arrivesAt = up ? this.arrivesAt : Math.max(this.arrivesAt, at);
    time.setTimeout(
      () => {
        // A link that lost one frame brings nothing any more: TCP has no holes.
        this.swallowed ||= this.server.blackHole;
        if (!this.gone && !this.swallowed) {
          arrive();
        }
      },
      (up ? time.now() + weather.latencyMs : this.arrivesAt) - time.now(),
    );
  }

  private answer(answered: (answer: Answer) => void, answer: Answer): void {
    this.travel(() => answered(answer));
  }

  private receive(type: string, data: unknown, answered: (answer: Answer) => void): void {
    if (type === 'PING') {
      const positions = [...this.places.keys()].map((room) => this.stand(room));
      this.answer(answered, { data: { positions } });
    } else if (type === 'UNSUBSCRIBE') {
      const { room } = data as { room: string };
      // It waits for the SUBSCRIBEs that came before it.
      this.chain = this.chain.then(() => {
        this.places.delete(room);
        this.answer(answered, { data: { room } });
      });
    } else {
      const { rooms } = data as { rooms: SubscribeRequest[] };
      this.server.asked.push(...rooms);
      const { time, weather } = this.server;
      const parts = time.random() < weather.split ? rooms.map((room) => [room]) : [rooms];
      const outcomes: unknown[] = [];
      this.chain = this.chain.then(async () => {
        for (const part of parts) {
          await this.look();
          if (this.gone) {
            return;
          }
          outcomes.push(...(await this.join(part)));
        }
        if (!this.gone) {
          this.answer(answered, { data: { rooms: outcomes } });
        }
      });
    }
  }

  private look(): Promise<void> {
    const { time, weather } = this.server;
    return new Promise((resolve) => time.setTimeout(resolve, time.random() * weather.lookupMs));
  }

  private stand(room: string): Position & { room: string } {
    const userId = this.server.owners.get(room)!;
    return { room, seq: this.position(userId), epoch: this.server.stream(userId).epoch };
  }

  private async join(requests: readonly SubscribeRequest[]): Promise<unknown[]> {
    const { server } = this;
    const refused = (room: string, code: string) => ({ room, error: { code, message: code } });
    if (server.time.random() < server.weather.outage) {
      return requests.map(({ room }) => refused(room, 'DATABASE_UNAVAILABLE'));
    }
    const asked = new Set(requests.map(({ room }) => room));
    const allowed = requests.filter(({ room }) => server.owners.has(room) && !server.forbidden.has(room));
    const joined = new Map<string, Joining>();
    for (const userId of new Set(allowed.map(({ room }) => server.owners.get(room)!))) {
      const own = allowed.filter(({ room }) => server.owners.get(room) === userId);
      for (const entry of await this.catchUp(userId, own, asked)) {
        joined.set(entry.room, entry);
      }
    }
    return requests.map(({ room }) => {
      const entry = joined.get(room);
      return entry === undefined
        ? refused(room, 'ACCESS_DENIED')
        : { ...this.stand(room), seq: entry.after, recovered: entry.recovered, replayed: entry.replayed };
    });
  }

  /** Brings some rooms of one user up to date. Their parts take time, in which things happen. */
  private async catchUp(
    userId: string,
    requests: readonly SubscribeRequest[],
    asked: ReadonlySet<string>,
  ): Promise<Joining[]> {
    const { server } = this;
    const stream = server.stream(userId);
    this.held.add(userId);
    const heldAt = this.position(userId);
    const placed: Joining[] = [];
    const others = (event: TaskEvent): Place[] =>
      [...this.places.values()].filter(({ room }) => !asked.has(room) && belongs(event, room));

    const bringTo = (goal: number): void => {
      const reached = this.position(userId);
      for (const event of stream.log.slice(0, goal)) {
        const { seq } = event;
        // What the connection has had for another room is not sent again.
        if (others(event).some(({ from }) => seq > from && seq <= heldAt)) {
          continue;
        }
        let wanted = seq > reached && others(event).length > 0;
        for (const entry of placed) {
          if (seq > entry.after && belongs(event, entry.room) && event.data.task_id >= entry.below) {
            wanted = true;
            entry.replayed += 1;
          }
        }
        if (wanted) {
          this.deliver(event);
        }
      }
      this.served.set(userId, Math.max(reached, goal));
      for (const entry of placed) {
        entry.after = Math.max(entry.after, goal);
      }
    };

    for (const request of requests) {
      const { room, since, epoch, snapshot } = request;
      const head = stream.log.length;
      const reaches = since !== undefined && (since >= stream.floor || this.logHasAll(room, since));
      const resumes = reaches && (epoch === undefined || epoch === stream.epoch) && since <= head;
      if (resumes || !(snapshot ?? (room.startsWith('job:') || since !== undefined))) {
        const from = resumes ? since : heldAt;
        placed.push({ room, from, after: from, below: 0, recovered: resumes, replayed: 0 });
        continue;
      }
      const entry: Joining = { room, from: head, after: head, below: 0, recovered: false, replayed: 0 };
      placed.push(entry);
      const inParts = typeof snapshot === 'object' && snapshot.parts !== false;
      for (let first = true; first || (inParts && entry.below > 0); first = false) {
        if (!first) {
          await this.look();
          if (this.gone) {
            return [];
          }
        }
        const position = stream.log.length;
        if (!first) {
          bringTo(position);
        }
        entry.below = this.sendTasks(room, first, entry.below, inParts);
      }
      entry.below = 0;
    }
    bringTo(stream.log.length);
    for (const { room, from } of placed) {
      this.places.set(room, { room, from });
    }
    this.held.delete(userId);
    return placed;
  }

  /** Whether the log has the creation of a task, before which nothing happened to it. */
  private logHasAll(room: string, since: number): boolean {
    const { log, floor } = this.server.stream(this.server.owners.get(room)!);
    const first = log.find((event) => event.seq > Math.max(since, floor) && belongs(event, room));
    return room.startsWith('task:') && first?.type === 'TASK_CREATED';
  }

  /** Sends the newest tasks of a room, or the newest of those below an id. @returns the lowest id, when there are more; else 0 */
  private sendTasks(room: string, first: boolean, below: number, inParts: boolean): number {
    const { server } = this;
    const userId = server.owners.get(room)!;
    const { epoch, log } = server.stream(userId);
    const all = server.rows(room).filter(({ task_id }) => first || task_id < below);
    const tasks = all.slice(-server.weather.tasks);
    const more = tasks.length < all.length;
    const [kind, id] = [room.slice(0, room.indexOf(':')), room.slice(room.indexOf(':') + 1)];
    const data = {
      ...(first ? {} : { room }),
      ...(kind === 'job' ? { job_id: id } : kind === 'task' ? { task_id: Number(id) } : {}),
      user_id: userId,
      tasks,
      ...(more ? { ...(first ? { truncated: true } : {}), before: tasks[0]!.task_id } : {}),
      ...(more && inParts ? { parts: true } : {}),
      ...(first || more ? {} : { complete: true }),
    };
    const type = first ? SNAPSHOTS[kind]! : 'SNAPSHOT_PART';
    const message = { type, seq: log.length, epoch, data, timestamp: 'now' } as Incoming;
    this.travel(() => this.events.message(message));
    return more ? tasks[0]!.task_id : 0;
  }
}
