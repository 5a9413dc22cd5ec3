import { TurnBatch } from '../base/turn-batch.js';

/** One connection, as the writer sees it. */
export interface FrameSink {
  /** Where the connection stands among the frames of this turn; the writer's own. */
  pending: FrameChain | undefined;
  /** Writes bytes to the connection; called once a turn. */
  writeFrames(bytes: Buffer): void;
}

/** The frames that some connections are given in this turn, in order: a path from the turn's root. */
export interface FrameChain {
  readonly parent: FrameChain | undefined;
  readonly frame: Buffer;
  readonly length: number;
  /** The chain that came out of this one last: connections of one room all take the same way. */
  next: FrameChain | undefined;
  joined: Buffer | undefined;
}

const newRoot = (): FrameChain => ({
  parent: undefined,
  frame: Buffer.alloc(0),
  length: 0,
  next: undefined,
  joined: undefined,
});

/**
 * Collects the frames of one turn of the event loop and gives each connection one write: the system call is what a
 * delivery costs. Connections that get the same frames share the bytes, so a room of thousands joins them once.
 */
export class FrameWriter {
  private root = newRoot();
  private readonly sinks = new TurnBatch<FrameSink>((sinks) => {
    this.root = newRoot();
    for (const sink of sinks) {
      this.flush(sink);
    }
  });

  add(sink: FrameSink, frame: Buffer): void {
    let parent = sink.pending;
    if (parent === undefined) {
      parent = this.root;
      this.sinks.add(sink);
    }
    let { next } = parent;
    if (next === undefined || next.frame !== frame) {
      next = { parent, frame, length: parent.length + frame.length, next: undefined, joined: undefined };
      parent.next = next;
    }
    sink.pending = next;
  }

  /** Writes what a connection was given in this turn, now: something else follows it on another way. */
  flush(sink: FrameSink): void {
    const chain = sink.pending;
    if (chain !== undefined) {
      sink.pending = undefined;
      sink.writeFrames(joined(chain));
    }
  }
}

function joined(chain: FrameChain): Buffer {
  if (chain.joined === undefined) {
    if (chain.length === chain.frame.length) {
      chain.joined = chain.frame;
    } else {
      const frames: Buffer[] = [];
      for (let link: FrameChain | undefined = chain; link !== undefined; link = link.parent) {
        frames.push(link.frame);
      }
      chain.joined = Buffer.concat(frames.reverse(), chain.length);
    }
  }
  return chain.joined;
}
