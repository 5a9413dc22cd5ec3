import type { Socket } from 'node:net';
import { MessageReader } from './message-reader.js';

/** Messages that end a unit: a simple query, the end of an extended batch, and a request for what is there so far. */
const ENDS = new Set(['Q', 'S', 'H']);
/** Messages of an extended batch. */
const PARTS = new Set(['P', 'B', 'D', 'E', 'C']);
/** Most units that may wait; then the client is not read any further. */
const MAX_WAITING = 16;

/** Messages that the database must run without another connection's messages in between. */
export interface Unit {
  readonly bytes: Buffer;
  /** Whether an extended batch goes on after it: the client asked for a part of the answer (Flush) and will go on. */
  readonly unfinished: boolean;
  /** Nothing to run: the client has ended the session. */
  readonly last: boolean;
}

/**
 * One connection to the embedded database: collects what its client says into units. All connections share the one
 * session that the database has, so the unnamed statement of a half-sent batch would be overwritten by another
 * connection's; a batch therefore runs when it is complete, and as one.
 */
export class Session {
  closed = false;
  private readonly reader = new MessageReader();
  private units: Unit[] = [];
  private batch: Buffer[] = [];

  /**
   * @param onUnit a unit is ready
   * @param onClose the connection is gone; what it began is to be undone
   */
  constructor(
    private readonly socket: Socket,
    private readonly onUnit: (session: Session) => void,
    private readonly onClose: (session: Session) => void,
  ) {
    socket.on('data', (chunk: Buffer) => this.receive(chunk));
    socket.on('error', () => this.close());
    socket.on('close', () => this.close());
  }

  get waiting(): boolean {
    return this.units.length > 0;
  }

  /** The next unit; there is one. */
  take(): Unit {
    const unit = this.units.shift()!;
    if (this.units.length < MAX_WAITING && this.socket.isPaused()) {
      this.socket.resume();
    }
    return unit;
  }

  send(bytes: Uint8Array): void {
    if (!this.closed) {
      // The database reuses its output buffer.
      this.socket.write(Buffer.from(bytes));
    }
  }

  close(): void {
    if (!this.closed) {
      this.closed = true;
      this.units = [];
      this.batch = [];
      this.socket.destroy();
      this.onClose(this);
    }
  }

  private receive(chunk: Buffer): void {
    this.reader.push(chunk);
    try {
      while (!this.closed && this.advance()) {
        // Everything that is complete is taken.
      }
    } catch {
      // Only a program that does not speak the protocol gets here, and it could not read an answer.
      this.close();
    }
  }

  private advance(): boolean {
    const frame = this.reader.next();
    if (frame === undefined) {
      return false;
    }
    if (frame.kind === 'encryption') {
      this.socket.write('N');
    } else if (frame.kind === 'startup') {
      this.finish(frame.bytes);
    } else if (frame.kind === 'message' && PARTS.has(frame.type)) {
      this.batch.push(frame.bytes);
    } else if (frame.kind === 'message' && ENDS.has(frame.type)) {
      this.finish(frame.bytes, { unfinished: frame.type === 'H' });
    } else if (frame.kind === 'message' && frame.type === 'X') {
      this.finish(frame.bytes, { last: true });
    } else {
      // A cancel request, or messages that the database does not survive, as those of COPY from the client.
      this.close();
    }
    return true;
  }

  private finish(end: Buffer, { unfinished = false, last = false } = {}): void {
    const bytes = this.batch.length === 0 ? end : Buffer.concat([...this.batch, end]);
    this.batch = [];
    this.units.push({ bytes, unfinished, last });
    if (this.units.length >= MAX_WAITING) {
      this.socket.pause();
    }
    this.onUnit(this);
  }
}
