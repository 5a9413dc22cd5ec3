import { createServer, type ListenOptions, type Server, type Socket } from 'node:net';
import { AnswerReader } from './answer-reader.js';
import { Session } from './session.js';

/** What the server asks of the database. */
export interface ProtocolDatabase {
  /** Runs messages of the Postgres protocol and hands over the answer. */
  execProtocolRawStream(message: Uint8Array, options: { onRawData: (data: Uint8Array) => void }): Promise<void>;
  isInTransaction(): boolean;
}

/** A connection that leaves a transaction open for so long is closed, in milliseconds: all others wait for it. */
const IDLE_TRANSACTION_MS = 30_000;

const message = (type: string, body = ''): Buffer => {
  const head = Buffer.alloc(5);
  head.write(type);
  head.writeInt32BE(4 + Buffer.byteLength(body), 1);
  return Buffer.concat([head, Buffer.from(body)]);
};
const SYNC = message('S');
const ROLLBACK = message('Q', 'ROLLBACK\0');

/**
 * Serves a database that has a single session to any number of connections of the Postgres protocol.
 *
 * One unit (see Session) runs at a time. While a transaction or a batch is open only its connection gets on: the others
 * wait in the order in which they came. What a lost connection left open is rolled back before anybody else's turn.
 */
export class SocketServer {
  private readonly server: Server;
  private readonly sessions = new Set<Session>();
  private readonly answers = new AnswerReader();
  private queue: Session[] = [];
  /** The connection whose transaction or batch is open. */
  private owner: Session | undefined;
  private ownerUnfinished = false;
  private idleTimer: NodeJS.Timeout | undefined;
  private busy = false;
  private running: Promise<void> | undefined;

  /** @param onFatal called when the database itself has failed, and not only a statement */
  constructor(
    private readonly database: ProtocolDatabase,
    private readonly onFatal: (error: unknown) => void,
  ) {
    this.server = createServer((socket) => this.accept(socket));
  }

  /** @returns the port, where there is one */
  listen(options: ListenOptions): Promise<number | undefined> {
    return new Promise((resolve, reject) => {
      this.server.once('error', reject);
      this.server.listen(options, () => {
        const address = this.server.address();
        resolve(typeof address === 'object' ? address?.port : undefined);
      });
    });
  }

  /** Closes all connections; what they left open is undone when this resolves. */
  async stop(): Promise<void> {
    const closed = new Promise((resolve) => this.server.close(resolve));
    for (const session of this.sessions) {
      session.close();
    }
    await closed;
    await this.running;
  }

  private accept(socket: Socket): void {
    socket.setNoDelay(true);
    const session = new Session(
      socket,
      (ready) => {
        if (ready !== this.owner && !this.queue.includes(ready)) {
          this.queue.push(ready);
        }
        this.pump();
      },
      (gone) => {
        this.sessions.delete(gone);
        this.queue = this.queue.filter((waiting) => waiting !== gone);
        this.pump();
      },
    );
    this.sessions.add(session);
  }

  private pump(): void {
    if (!this.busy) {
      this.busy = true;
      this.running = this.run().catch(this.onFatal);
    }
  }

  private async run(): Promise<void> {
    for (;;) {
      if (this.owner?.closed) {
        await this.undo();
      }
      const session = this.next();
      if (session === undefined) {
        // In the same turn as the check, so that no wake-up is missed.
        this.busy = false;
        return;
      }
      clearTimeout(this.idleTimer);
      const unit = session.take();
      if (unit.last) {
        session.close();
      } else {
        await this.answer(session, unit.bytes);
        this.hand(session, unit.unfinished);
      }
    }
  }

  /** @throws Error when the database has given up, and a new one has to take its place */
  private async answer(session: Session, bytes: Buffer): Promise<void> {
    let panic: string | undefined;
    const onRawData = (data: Uint8Array): void => {
      panic ??= this.answers.push(data);
      session.send(data);
    };
    await this.database.execProtocolRawStream(bytes, { onRawData });
    if (panic !== undefined) {
      throw new Error(`the database has given up: ${panic}`);
    }
  }

  /** The connection whose turn it is: the one with an open transaction, or the one that has waited longest. */
  private next(): Session | undefined {
    if (this.owner !== undefined) {
      return this.owner.waiting ? this.owner : undefined;
    }
    return this.queue.shift();
  }

  private hand(session: Session, unfinished: boolean): void {
    if (unfinished || this.database.isInTransaction()) {
      this.owner = session;
      this.ownerUnfinished = unfinished;
      this.queue = this.queue.filter((waiting) => waiting !== session);
      this.idleTimer = setTimeout(() => session.close(), IDLE_TRANSACTION_MS);
      return;
    }
    this.owner = undefined;
    if (session.waiting && !this.queue.includes(session)) {
      this.queue.push(session);
    }
  }

  /** Ends what a lost connection left open. */
  private async undo(): Promise<void> {
    clearTimeout(this.idleTimer);
    const nobody = { onRawData() {} };
    if (this.ownerUnfinished) {
      await this.database.execProtocolRawStream(SYNC, nobody);
    }
    if (this.database.isInTransaction()) {
      await this.database.execProtocolRawStream(ROLLBACK, nobody);
    }
    this.owner = undefined;
    this.ownerUnfinished = false;
  }
}
