import type { TaskwireError } from '../protocol/errors.js';
import type { SubscribeRequest, SubscribeResult } from '../protocol/messages.js';
import type { Room } from '../protocol/rooms.js';

export type SubscribeReply = (outcome: SubscribeResult | TaskwireError) => void;

/** An event as far as it tells which rooms it belongs to. */
interface Placed {
  readonly jobId: string;
  readonly taskId: string;
}

/**
 * One room of one connection, from its SUBSCRIBE until it is left: what the client asked for, and how far it has come.
 * The states that it goes through stand in catch-up.ts.
 */
export class Subscription {
  /** The client has everything of the room up to here: it was sent, is in a snapshot, or the client said so. */
  after = 0;
  /** The first `after`: this connection was sent every event of the room from there on. */
  from = 0;
  recovered = false;
  replayed = 0;
  /** While a snapshot comes in parts: tasks with lower ids than this are still to come, and their events with them. */
  private restBelow: number | undefined;
  private reply: SubscribeReply | undefined;

  /** @param reply called once: in the turn in which the room goes live, or when that failed */
  constructor(
    readonly room: Room,
    readonly request: Omit<SubscribeRequest, 'room'>,
    reply: SubscribeReply,
  ) {
    this.reply = reply;
  }

  /** The client has the room up to `seq`, by what it said or by a snapshot. */
  startAt(seq: number, recovered: boolean): void {
    this.after = this.from = seq;
    this.recovered = recovered;
    this.replayed = 0;
    this.restBelow = undefined;
  }

  /** Everything of the room up to `seq` has been sent. */
  reach(seq: number): void {
    this.after = Math.max(this.after, seq);
  }

  /** The client has the tasks from this id on, and waits for the others; undefined: it has all. */
  expectRest(below: number | undefined): void {
    this.restBelow = below;
  }

  /** Whether the client has all tasks of the room. */
  get whole(): boolean {
    return this.restBelow === undefined;
  }

  answer(outcome: SubscribeResult | TaskwireError): void {
    const { reply } = this;
    this.reply = undefined;
    reply?.(outcome);
  }

  /** Whether an event of the room's own stream belongs to the room. */
  holds({ jobId, taskId }: Placed): boolean {
    const { kind, id } = this.room;
    return kind === 'user' || (kind === 'job' ? jobId : taskId) === id;
  }

  /** Whether the client needs an event of the room. Not when its task is in a part that comes later, with the change in it. */
  needs(event: Placed): boolean {
    return this.holds(event) && (this.restBelow === undefined || Number(event.taskId) >= this.restBelow);
  }
}
