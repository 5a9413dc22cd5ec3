/**
 * Corrections around `@socket.io/sticky` 2.0.1.
 *
 * The library decides which worker gets a connection: the one of its session, or the one with the fewest connections. It
 * hands the socket over with `worker.send`. `sticky-listener.ts` uses it for that. Six things that this service needs
 * otherwise are corrected here, and nowhere else:
 *
 * 1. **Bodies** (`withOpening`). It looks for `content-length:` in the head, URL included. If it finds it, it keeps the socket
 *    and passes the body on in messages that nothing bounds. So it is shown a short opening of our own instead of the head.
 * 2. **Lost bytes** (`stopReading`). A socket that is being handed over goes on being read here until the worker has
 *    confirmed it. What the client says meanwhile is lost. So reading stops first.
 * 3. **Balance** (`HandOver.count`). It counts a connection when the worker reports its session. So 120 connects at once go to
 *    one worker, and plain WebSockets do not count at all. Here a connection counts from its hand-over until it is closed.
 *    A worker that starts, drains or hangs counts as infinitely busy.
 * 4. **Waiting** (`HandOver`). Node.js passes sockets to a worker one by one. The library never learns what became of those that
 *    still wait when the worker hangs or dies: they would stay open, and nobody would answer them. Here they wait in a queue that
 *    can be taken back and given to another worker.
 * 5. **Quick clients** (`serveHandedOver`). A session is made known to the primary after its first answer. A client that
 *    comes back at once would meet a worker that does not know it. Here the primary is told before the answer.
 * 6. **Bodies, at the worker** (`serveHandedOver`). The HTTP parser goes on reading a socket after a pause once bytes were put back
 *    into it, so a body that nobody reads grows without bound.
 *
 * `test/unit/sticky-corrections.test.ts` and `test/cluster/hand-over.test.ts` hold each of them by its number.
 */
import type { Worker } from 'node:cluster';
import type { EventEmitter } from 'node:events';
import type { IncomingMessage, Server } from 'node:http';
import { Socket } from 'node:net';
import { Turns } from '../base/turns.js';
import { peerGroup } from '../door/client-address.js';

const END_OF_HEAD = '\r\n\r\n';
/** An id of Engine.IO in the target of a request. */
const SESSION = /[?&]sid=([\w-]{20})(?=[&#\s]|$)/;

/** @returns the session that a request line names */
export const sessionOf = (line: string): string | undefined => SESSION.exec(line)?.[1];

/**
 * Correction 1: what the library is given for the first bytes of a connection. It reads the opening as if it were the head.
 * @param session undefined: whichever worker has the fewest connections
 */
export const withOpening = (bytes: Uint8Array, session: string | undefined): Buffer =>
  Buffer.concat([Buffer.from(`${session === undefined ? '' : `sid=${session}`}${END_OF_HEAD}`), bytes]);

/** @returns the bytes that `withOpening` was given */
export function withoutOpening(data: Uint8Array): Buffer {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  return bytes.subarray(bytes.indexOf(END_OF_HEAD) + END_OF_HEAD.length);
}

/** The system's side of a socket. A socket that was sent to another process has none. */
interface SystemHandle {
  readStart(): void;
  readStop(): void;
  close(): void;
}

const handleOf = (socket: Socket): SystemHandle | null =>
  (socket as Socket & { readonly _handle: SystemHandle | null })._handle;

/** Correction 2. */
export const stopReading = (socket: Socket): void => handleOf(socket)?.readStop();

/** Takes a socket back from the library: its bytes are read here again. */
export function readHere(socket: Socket): void {
  socket.removeAllListeners('data');
  handleOf(socket)?.readStart();
}

/** The library's message to a worker; the socket comes with it. */
interface HandedOver {
  readonly type: 'sticky:connection';
  readonly data: Uint8Array;
}

const isHandedOver = (message: unknown): message is HandedOver =>
  typeof message === 'object' && message !== null && (message as { type?: unknown }).type === 'sticky:connection';

interface Waiting {
  readonly message: HandedOver;
  readonly socket: Socket;
  readonly done: (error: Error | null) => void;
}

/** What a worker gets: everything; only requests of sessions that it has; or nothing, since it hangs. */
export type Taking = 'all' | 'sessions' | 'nothing';

/** The primary's part of the hand-over to one worker: corrections 3 and 4. */
export class HandOver {
  private takes: Taking = 'sessions';
  private connections = 0;
  /** By the address of the other side: one that opens thousands at once does not keep others out. */
  private readonly waiting = new Turns<Waiting>();
  private sending: Waiting | undefined;
  /** The system's side of the one that is being sent: its socket has none from then on. */
  private sent: SystemHandle | null = null;
  private lastSent: SystemHandle | null = null;
  private readonly send: (message: unknown, socket: Socket, done: (error: Error | null) => void) => boolean;

  /** @param giveBack takes a connection that this worker will not get, with the bytes that were read of it */
  constructor(
    worker: Worker,
    private readonly giveBack: (socket: Socket, bytes: Buffer) => void,
  ) {
    const send = worker.send.bind(worker) as (...args: unknown[]) => boolean;
    this.send = send;
    worker.send = ((message: unknown, ...rest: unknown[]): boolean => {
      const [socket, done] = rest;
      if (!(socket instanceof Socket) || !isHandedOver(message)) {
        return send(message, ...rest);
      }
      this.add({ message, socket, done: done as Waiting['done'] });
      return true;
    }) as Worker['send'];
    // The library compares this property of its workers, and adds to it; here it is only read.
    Object.defineProperty(worker, 'clientsCount', {
      get: () => (this.takes === 'all' ? this.connections : Number.POSITIVE_INFINITY),
      set: () => {},
    });
    worker.once('disconnect', () => this.take('nothing'));
    // A channel that ends while sockets are under way emits nothing.
    worker.once('exit', () => {
      this.take('nothing');
      // The worker may not have received the last ones. If it has, closing them here changes nothing.
      this.lastSent?.close();
      this.sent?.close();
    });
  }

  /** Connections that the worker has or is to get. */
  get count(): number {
    return this.connections;
  }

  get taking(): Taking {
    return this.takes;
  }

  /** Sets what the worker gets from now on. With `nothing`, connections that wait for it are given back. */
  take(taking: Taking): void {
    this.takes = taking;
    if (taking === 'nothing') {
      this.takeBack();
    }
  }

  /** Whether connections are on their way to the worker that it does not have yet. */
  get busy(): boolean {
    return !this.waiting.empty || this.sending !== undefined;
  }

  /** The worker says that so many connections have ended. */
  closed(connections: number): void {
    this.connections = Math.max(0, this.connections - connections);
  }

  /** @param unsent one that could not be sent */
  private takeBack(unsent?: Waiting): void {
    const { sending } = this;
    const waiting = [...(unsent === undefined ? [] : [unsent]), ...this.waiting.clear()];
    if (sending !== undefined && handleOf(sending.socket) !== null) {
      // Node.js keeps it in a queue of its own. When its turn comes there, it is sent without its socket, and the worker
      // reports it as closed: until then it counts.
      this.sending = undefined;
      this.sent = null;
      this.connections += 1;
      waiting.unshift(sending);
    }
    this.connections -= waiting.length;
    for (const { socket, message } of waiting) {
      if (!socket.destroyed) {
        this.giveBack(socket, withoutOpening(message.data));
      }
    }
  }

  private add(one: Waiting): void {
    this.connections += 1;
    this.waiting.push(peerGroup(one.socket), one);
    if (this.takes === 'nothing') {
      this.takeBack();
    } else {
      this.sendNext();
    }
  }

  private sendNext(): void {
    while (this.sending === undefined) {
      const one = this.waiting.shift();
      if (one === undefined) {
        return;
      }
      if (one.socket.destroyed) {
        this.connections -= 1;
      } else {
        this.sending = one;
        const handle = handleOf(one.socket);
        this.sent = handle;
        this.send(one.message, one.socket, (error) => {
          if (this.sending === one) {
            this.sending = undefined;
            this.sent = null;
            if (error !== null && handleOf(one.socket) !== null) {
              // The channel has ended before the socket was sent: another worker can get it.
              this.takes = 'nothing';
              this.takeBack(one);
              return;
            }
            this.lastSent = handle;
            one.done(error);
            this.sendNext();
          }
        });
      }
    }
  }
}

/** What this file uses of Engine.IO: its ids of sessions, and their ends. */
export interface SessionSource extends EventEmitter {
  generateId(request: IncomingMessage): string | PromiseLike<string>;
}

const POLLING = /[?&]transport=polling(?=[&#]|$)/;

const ignore = (): void => {};

/**
 * The worker's part: gives the connections that the primary hands over to a server that listens nowhere itself.
 * @param engine Engine.IO; the primary is told of its sessions by the library's messages
 * @param onClosed called when a connection has ended, or has never arrived
 */
export function serveHandedOver(http: Server, engine: SessionSource, onClosed: () => void): void {
  process.on('message', (message, socket) => {
    if (!isHandedOver(message)) {
      return;
    }
    if (!(socket instanceof Socket)) {
      // It was closed on the way, or another worker has it.
      onClosed();
      return;
    }
    socket.once('close', onClosed);
    http.emit('connection', socket);
    socket.unshift(withoutOpening(message.data));
  });
  // The event `listening` starts the server's check for requests that never end.
  http.emit('listening');
  http.on('connection', (socket: Socket) => {
    // Correction 6: with a listener for the bytes, even for a moment, the parser no longer reads the socket by itself.
    socket.on('data', ignore);
    socket.off('data', ignore);
  });
  http.prependListener('request', (_request, response) => {
    // The next request of this connection could belong to a session of another worker.
    response.setHeader('Connection', 'close');
  });

  // Correction 5: Engine.IO asks for an id before it answers. Sessions that begin as a WebSocket are one connection: nobody
  // has to find them again.
  const told = new Set<string>();
  const makeId = engine.generateId.bind(engine);
  engine.generateId = async (request) => {
    const id = await makeId(request);
    if (POLLING.test(request.url ?? '')) {
      told.add(id);
      tell({ type: 'sticky:connection', data: id });
    }
    return id;
  };
  function onEnd(this: { readonly id: string }): void {
    told.delete(this.id);
    tell({ type: 'sticky:disconnection', data: this.id });
  }
  engine.on('connection', (session: EventEmitter & { readonly id: string }) => {
    if (told.has(session.id)) {
      session.on('close', onEnd);
    }
  });
}

function tell(message: object): void {
  if (process.connected) {
    process.send?.(message, undefined, undefined, ignore);
  }
}
