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

/** The answer while there is nobody to serve, as a worker that drains would give it. */
const UNAVAILABLE = ((): string => {
  const { body } = new TaskwireError('SERVER_DRAINING');
  const { status } = errorEntry(body.code);
  const text = JSON.stringify({ error: body });
  return [
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
    'Retry-After: 1',
    'Connection: close',
    'Content-Type: application/json; charset=utf-8',
    `Content-Length: ${Buffer.byteLength(text)}`,
    '',
    text,
  ].join('\r\n');
})();
/** How long somebody who was turned away has to take the answer, in milliseconds. */
const FAREWELL_MS = 2_000;
/** A connection that says nothing for so long is ended, in milliseconds. */
const SILENCE_MS = 60_000;

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
      turnAway(socket);
      return;
    }
    socket.setTimeout(SILENCE_MS, () => socket.destroy());
    const handle = (socket as Socket & { _handle: { readStop(): void } | null })._handle;
    routed.emit('connection', socket);
    // The handle is a worker's from its first chunk on, but goes on reading here until that worker has confirmed it:
    // what the client says meanwhile would be lost. A request with a body stays here and is passed on in chunks.
    socket.on('data', (chunk: Buffer) => {
      if (!hasBody(chunk)) {
        handle?.readStop();
      }
    });
  });
}

/** By the rule that sticky has. */
function hasBody(chunk: Buffer): boolean {
  const head = chunk.subarray(0, chunk.indexOf('\r\n\r\n')).toString('latin1').toLowerCase();
  return head.includes('content-length:') || head.includes('transfer-encoding:');
}

function turnAway(socket: Socket): void {
  socket.setTimeout(FAREWELL_MS, () => socket.destroy());
  socket.end(UNAVAILABLE);
  socket.resume();
}
