import type { EventEnvelope } from '../../src/protocol/events.js';
import { EVENT_TYPES } from '../../src/protocol/events.js';
import type { SubscribeResult } from '../../src/protocol/messages.js';
import type { Contents } from './contents.js';
import {
  type Link,
  type LinkEvents,
  type LinkOpener,
  type LinkTarget,
  type Message,
  PlainLink,
  RECONNECT_MS,
  SocketioLink,
} from './links.js';
import { SseLink } from './sse-link.js';

export type Wire = 'socket.io' | 'websocket' | 'sse';

/** Links of clients that do all that they can. */
const LINKS: Readonly<Record<Wire, LinkOpener>> = {
  websocket: (target, events) => new PlainLink(target, events),
  'socket.io': (target, events) => new SocketioLink(target, events),
  sse: (target, events) => new SseLink(target, events),
};

export interface SubscriberOptions extends Pick<LinkTarget, 'localAddress' | 'reconnectMs'> {
  /** Where it is kept what events say; by default nowhere. */
  readonly contents?: Contents | undefined;
}

interface Snapshot {
  seq: number;
  data: {
    /** Of a part, instead of what the room is of. */
    room?: string;
    job_id?: string;
    task_id?: number;
    user_id: string;
    tasks: Array<Record<string, unknown>>;
    /** The tasks below it are not in this message. */
    before?: number;
    parts?: boolean;
  };
}

/** What one room of a subscriber has received. */
export class RoomHistory {
  /** Up to where a snapshot, or the first acknowledgement, covers the room. */
  base: number | undefined;
  epoch: string | undefined;
  position = 0;
  readonly seqs: number[] = [];
  acknowledged = false;
  /** Whether the connection of now said where it stopped. */
  resumes = false;
  /** A snapshot comes in parts; this is the lowest task id so far, and below it nothing is known. */
  partsBelow: number | undefined;
}

/**
 * A client as a frontend would write one: keeps a position per room, comes back by itself and says where it stopped. It
 * keeps account of everything that breaks the promise: a copy on one connection, an event out of order.
 */
export class Subscriber {
  readonly rooms = new Map<string, RoomHistory>();
  readonly violations: string[] = [];
  readonly refusals: string[] = [];
  /** Rows by task id, as a frontend derives them: a snapshot replaces, an event merges its changes. */
  readonly state = new Map<number, Record<string, unknown>>();
  connections = 0;
  /** SUBSCRIBEs that said `recovered: false` although a position was given. */
  unrecovered = 0;
  readonly unrecoveredRooms: string[] = [];
  replayed = 0;
  /** Events, whether replayed or live. */
  received = 0;
  private readonly link: Link;
  private readonly contents: Contents | undefined;
  private seenHere = new Set<string>();

  /**
   * @param wire one of ours, or whatever keeps a connection in its own way
   * @param rooms of one user; over Server-Sent Events one
   */
  constructor(
    wire: Wire | LinkOpener,
    url: string,
    key: string,
    rooms: readonly string[],
    { contents, ...from }: SubscriberOptions = {},
  ) {
    this.contents = contents;
    for (const room of rooms) {
      this.rooms.set(room, new RoomHistory());
    }
    const events: LinkEvents = {
      open: (resumes = true) => this.onOpen(resumes),
      message: (message) => this.onMessage(message),
      subscribed: (results) => this.onSubscribed(results),
      refused: (code) => this.refusals.push(code),
    };
    const open = typeof wire === 'string' ? LINKS[wire] : wire;
    this.link = open({ url, key, rooms, ...from }, events);
  }

  /** Whether there is a connection, and every room has been acknowledged on it. */
  get live(): boolean {
    return this.link.connected && [...this.rooms.values()].every(({ acknowledged }) => acknowledged);
  }

  /** Ends the connection; it comes back by itself. */
  drop(): void {
    this.link.drop();
  }

  close(): void {
    this.link.close();
  }

  private onOpen(resumes: boolean): void {
    this.connections += 1;
    this.seenHere = new Set();
    const requests = [...this.rooms].map(([room, history]) => {
      history.acknowledged = false;
      if (history.partsBelow !== undefined) {
        // Without the answer the rest is missing.
        history.base = history.partsBelow = undefined;
      }
      history.resumes = resumes && history.base !== undefined;
      return history.base === undefined ? { room } : { room, since: history.position, epoch: history.epoch };
    });
    this.link.subscribe(requests);
  }

  private onSubscribed(results: Array<SubscribeResult | { room: string; error: { code: string } }>): void {
    let again = false;
    for (const result of results) {
      const history = this.rooms.get(result.room)!;
      if ('error' in result) {
        this.refusals.push(result.error.code);
        again = true;
        continue;
      }
      if (history.resumes && !result.recovered) {
        this.unrecovered += 1;
        this.unrecoveredRooms.push(`${result.room} at ${history.position}, server at ${result.seq}`);
        history.base = Math.max(history.base ?? 0, history.position);
      }
      history.base ??= result.seq;
      history.partsBelow = undefined;
      history.position = Math.max(history.position, result.seq);
      history.epoch = result.epoch;
      history.acknowledged = true;
      this.replayed += result.replayed;
    }
    if (again) {
      setTimeout(() => this.link.drop(), RECONNECT_MS);
    }
  }

  private onMessage(message: Message): void {
    if ((EVENT_TYPES as readonly string[]).includes(message.type)) {
      this.onEvent(message as unknown as EventEnvelope);
    } else if (message.type.endsWith('_SNAPSHOT') || message.type === 'SNAPSHOT_PART') {
      this.onSnapshot(message as unknown as Snapshot);
    } else if (message.type === 'POSITION') {
      for (const { room, seq } of message.data['positions'] as Array<{ room: string; seq: number }>) {
        const history = this.rooms.get(room)!;
        history.position = Math.max(history.position, seq);
      }
    }
  }

  private onSnapshot({ seq, data }: Snapshot): void {
    const room = data.room ?? roomOf(data);
    const history = this.rooms.get(room);
    if (history === undefined) {
      this.violations.push(`snapshot of ${room}, which was not asked for`);
      return;
    }
    history.base = seq;
    history.position = seq;
    // It has all tasks of the room in this range of ids.
    const [from, to] = [data.before ?? 0, history.partsBelow ?? Number.POSITIVE_INFINITY];
    history.partsBelow = data.parts === true ? data.before : undefined;
    for (const [id, row] of this.state) {
      if (id >= from && id < to && isIn(row, room)) {
        this.state.delete(id);
      }
    }
    for (const task of data.tasks) {
      this.state.set(task['task_id'] as number, { ...task });
    }
  }

  private onEvent(event: EventEnvelope): void {
    const { type, seq, data } = event;
    this.received += 1;
    if (this.contents?.agrees(event) === false) {
      this.violations.push(`${type} ${data.user_id} ${seq} says something else than it did to others`);
    }
    const id = `${data.user_id} ${seq}`;
    if (this.seenHere.has(id)) {
      this.violations.push(`copy of ${type} ${id}`);
    }
    this.seenHere.add(id);
    let entitled = false;
    let news = false;
    for (const room of [`job:${data.job_id}`, `task:${data.task_id}`, `user:${data.user_id}`]) {
      const history = this.rooms.get(room);
      if (history !== undefined) {
        entitled = true;
        if (seq > history.position) {
          news = true;
          history.position = seq;
          history.seqs.push(seq);
        }
      }
    }
    if (!entitled) {
      this.violations.push(`${type} ${id} of a room that was not asked for`);
    } else if (!news) {
      this.violations.push(`${type} ${id} out of order or seen before`);
    } else if (type === 'TASK_DELETED') {
      this.state.delete(data.task_id);
    } else {
      this.state.set(data.task_id, { ...this.state.get(data.task_id), ...(data.changes as object) });
    }
  }
}

const roomOf = ({ job_id, task_id, user_id }: Snapshot['data']): string =>
  job_id !== undefined ? `job:${job_id}` : task_id !== undefined ? `task:${task_id}` : `user:${user_id}`;

/** Whether a row belongs to a room. */
export function isIn(row: Readonly<Record<string, unknown>>, room: string): boolean {
  const [kind] = room.split(':', 1);
  return `${kind}:${row[`${kind}_id`]}` === room;
}
