import cluster, { type Worker } from 'node:cluster';
import { EventEmitter } from 'node:events';
import { type Server as HttpServer, STATUS_CODES } from 'node:http';
import { createServer, type Server, Socket } from 'node:net';
import { setupMaster } from '@socket.io/sticky';
import { errorEntry, TaskwireError } from '../protocol/errors.js';
import { isMessage, type WorkerSessions } from './messages.js';

/** What sticky keeps at a worker: by it the next connection's worker is chosen. */
interface CountedWorker extends Worker {
  clientsCount?: number;
}

/** The system's side of a socket; a socket that was sent to another process has none. */
interface SystemHandle {
  readStop(): void;
  close(): void;
}

type HeldSocket = Socket & { readonly _handle: SystemHandle | null };

/** How long somebody who was turned away has to take the answer, in milliseconds. */
const FAREWELL_MS = 2_000;
/** How long a connection may take to say what it asks for, in milliseconds. */
const PATIENCE_MS = 10_000;
/** A request line is not longer, in bytes: whoever sends more gets the answer of a worker. */
const MAX_LINE_BYTES = 16_384;

/** Whether new connections may go to a worker. Sticky gives them to the one with the fewest. */
export function setEligible(worker: Worker, eligible: boolean): void {
  (worker as CountedWorker).clientsCount = eligible ? 0 : Number.POSITIVE_INFINITY;
}

/**
 * Ends connections that wait to be handed to a worker when that worker is gone. A channel passes them on one by one; those
 * that still wait when it breaks would stay open, and nobody would ever answer them.
 */
export function endWaitingWith(worker: Worker): void {
  const waiting = new Set<Socket>();
  /** The last one that was sent; its worker may not have taken it. */
  let sent: SystemHandle | null = null;
  const send = worker.send.bind(worker) as (...args: unknown[]) => boolean;
  worker.send = ((message: unknown, ...rest: unknown[]): boolean => {
    const [socket, done] = rest;
    if (!(socket instanceof Socket)) {
      return send(message, ...rest);
    }
    const { _handle: handle } = socket as HeldSocket;
    waiting.add(socket);
    return send(message, socket, (error: Error | null) => {
      waiting.delete(socket);
      sent = handle;
      (done as (error: Error | null) => void)(error);
    });
  }) as Worker['send'];
  worker.once('exit', () => {
    for (const socket of waiting) {
      socket.destroy();
    }
    // Closing one that was taken, and is closed here, changes nothing.
    sent?.close();
  });
}

/**
 * The public listener: gives each connection to a worker by way of `@socket.io/sticky`, which sees to it that requests of one
 * session reach the same one. It reads no more than the request line, and keeps nothing of a connection that was handed over.
 * @param available whether any worker takes connections
 */
export function createStickyListener(available: () => boolean): Server {
  const routed = new EventEmitter();
  // It uses nothing of an HTTP server but its connections.
  setupMaster(routed as HttpServer, { loadBalancingMethod: 'least-connection' });
  cluster.on('message', takeSessions);
  return createServer((socket) => {
    socket.on('error', () => socket.destroy());
    if (!available()) {
      turnAway(socket, new TaskwireError('SERVER_DRAINING'));
      return;
    }
    readLine(socket, (bytes, length) => {
      if (available()) {
        route(socket, bytes, length);
      } else {
        // The last worker began to drain before anything was said here.
        turnAway(socket, new TaskwireError('SERVER_DRAINING'));
      }
    });
  });

  function route(socket: Socket, bytes: Buffer, lineLength: number): void {
    const line = bytes.toString('latin1', 0, lineLength).toLowerCase();
    if (KEPT_BACK.some((header) => line.includes(header))) {
      turnAway(socket, new TaskwireError('INVALID_REQUEST', { message: 'No address here has such a word in it' }));
      return;
    }
    // The handle is to be a worker's, but goes on reading here until that worker has confirmed it: what the client says
    // meanwhile would be lost.
    (socket as HeldSocket)._handle?.readStop();
    // Sticky keeps a connection whose head tells of a body, and passes it on in chunks that nothing bounds. Here it finds the
    // end of the head at the end of the request line, where the session is.
    bytes.indexOf = () => lineLength;
    routed.emit('connection', socket);
    socket.emit('data', bytes);
  }
}

/** Passes on to sticky, one by one, what workers tell of several sessions at once. */
function takeSessions(worker: Worker, message: unknown): void {
  if (isMessage<WorkerSessions>(message, 'worker:sessions')) {
    for (const data of message.opened) {
      cluster.emit('message', worker, { type: 'sticky:connection', data }, undefined);
    }
    for (const data of message.closed) {
      cluster.emit('message', worker, { type: 'sticky:disconnection', data }, undefined);
    }
  }
}

/** What sticky keeps a connection for. */
const KEPT_BACK = ['content-length:', 'transfer-encoding:'];

/** Calls back once, with all bytes read so far and the length of the request line in them. */
function readLine(socket: Socket, done: (bytes: Buffer, length: number) => void): void {
  const timer = setTimeout(() => socket.destroy(), PATIENCE_MS).unref();
  let bytes: Buffer | undefined;
  const onData = (chunk: Buffer): void => {
    bytes = bytes === undefined ? chunk : Buffer.concat([bytes, chunk]);
    const end = bytes.indexOf('\r\n');
    if (end !== -1 || bytes.length > MAX_LINE_BYTES) {
      clearTimeout(timer);
      socket.off('data', onData);
      done(bytes, end === -1 ? bytes.length : end);
    }
  };
  socket.on('data', onData);
  socket.once('close', () => clearTimeout(timer));
}

function turnAway(socket: Socket, { body: error }: TaskwireError): void {
  const { status, retry } = errorEntry(error.code);
  const body = JSON.stringify({ error });
  const lines = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
    'Content-Type: application/json; charset=utf-8',
    `Content-Length: ${Buffer.byteLength(body)}`,
    ...(retry === 'later' ? ['Retry-After: 1'] : []),
    'Connection: close',
    '',
    body,
  ];
  socket.setTimeout(FAREWELL_MS, () => socket.destroy());
  socket.end(lines.join('\r\n'));
  socket.resume();
}
