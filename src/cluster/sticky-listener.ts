import type { Worker } from 'node:cluster';
import { EventEmitter } from 'node:events';
import { type Server as HttpServer, STATUS_CODES } from 'node:http';
import { createServer, type Server, type Socket } from 'node:net';
import { setupMaster } from '@socket.io/sticky';
import { errorEntry, TaskwireError } from '../protocol/errors.js';

/** What sticky keeps at a worker: by it the next connection's worker is chosen. */
interface CountedWorker extends Worker {
  clientsCount?: number;
}

/** How long somebody who was turned away has to take the answer, in milliseconds. */
const FAREWELL_MS = 2_000;
/** A connection that says nothing for so long is ended, in milliseconds. */
const SILENCE_MS = 60_000;
/** Bytes of answers that may wait for one connection that passes through here: more than the largest answer has. */
const MAX_WAITING_BYTES = 16_777_216;

/** Whether new connections may go to a worker. Sticky gives them to the one with the fewest. */
export function setEligible(worker: Worker, eligible: boolean): void {
  (worker as CountedWorker).clientsCount = eligible ? 0 : Number.POSITIVE_INFINITY;
}

/**
 * The public listener: gives each connection to a worker by way of `@socket.io/sticky`, which sees to it that requests of one
 * session reach the same one. It reads no HTTP itself, so that nothing is kept of a connection that was handed over.
 * @param available whether any worker takes connections
 */
export function createStickyListener(available: () => boolean): Server {
  const routed = new EventEmitter();
  // It uses nothing of an HTTP server but its connections.
  setupMaster(routed as HttpServer, { loadBalancingMethod: 'least-connection' });
  return createServer((socket) => {
    socket.on('error', () => socket.destroy());
    if (!available()) {
      turnAway(socket, new TaskwireError('SERVER_DRAINING'));
      return;
    }
    socket.setTimeout(SILENCE_MS, () => socket.destroy());
    socket.once('data', (chunk: Buffer) => {
      if (available()) {
        route(socket, chunk);
      } else {
        // The last worker began to drain before anything was said here.
        turnAway(socket, new TaskwireError('SERVER_DRAINING'));
      }
    });
  });

  function route(socket: Socket, chunk: Buffer): void {
    const head = chunk.subarray(0, chunk.indexOf('\r\n\r\n')).toString('latin1').toLowerCase();
    const body = hasBody(head);
    if (body && head.includes('\r\nupgrade:')) {
      // It would stay here for as long as the connection lives, with all that the connection is sent.
      turnAway(socket, new TaskwireError('INVALID_REQUEST', { message: 'An upgrade has no body' }));
      return;
    }
    const { _handle: handle } = socket as Socket & { _handle: { readStop(): void } | null };
    routed.emit('connection', socket);
    if (body) {
      boundAnswers(socket);
    }
    socket.emit('data', chunk);
    // The handle is a worker's now, but goes on reading here until that worker has confirmed it: what the client says
    // meanwhile would be lost. A request with a body stays here and is passed on in chunks.
    if (!body) {
      handle?.readStop();
    }
  }
}

/** By the rule that sticky has. */
const hasBody = (head: string): boolean => head.includes('content-length:') || head.includes('transfer-encoding:');

/** Sticky writes what a worker answers whatever waits already: somebody who does not read it is cut off. */
function boundAnswers(socket: Socket): void {
  const write = socket.write.bind(socket) as (...args: unknown[]) => boolean;
  socket.write = (...args: unknown[]): boolean => {
    if (socket.writableLength > MAX_WAITING_BYTES) {
      socket.destroy();
      return false;
    }
    return write(...args);
  };
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
