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
 * Collects the frames of one turn of the event loop, so that each connection gets one write: the system call is the main
 * cost of a delivery. Connections with the same frames share the bytes, so for a room of thousands they are joined once.
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

  /** Writes the frames of a connection now: something else follows that does not pass through the writer. */
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
