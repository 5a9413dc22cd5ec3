import { createServer, type IncomingHttpHeaders, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import { errorEntry, TaskwireError } from '../protocol/errors.js';
import { farewell, STREAM_CONTENT_TYPES } from '../protocol/event-stream.js';

/** How long a request may take to arrive, and its answer to be read, in milliseconds. */
const PATIENCE_MS = 10_000;

/**
 * Turns connections away that no worker can serve, with SERVER_DRAINING. A request is read to its end first: a proxy that gets an
 * answer before it has sent everything may send the request to another instance as well, and put both answers together.
 * @returns takes a connection, and the bytes that were read of it
 */
export function createTurnAway(): (socket: Socket, bytes?: Buffer) => void {
  const draining = new TaskwireError('SERVER_DRAINING');
  const { status } = errorEntry(draining.code);
  const body = JSON.stringify({ error: draining.body });
  // It listens nowhere. Without a listener for upgrades, these are answered like all requests.
  const server = createServer((request, response) => {
    request.resume();
    request.once('end', () => {
      const { method, headers } = request;
      if (method === 'OPTIONS' && headers['access-control-request-method'] !== undefined) {
        response.writeHead(204, { ...readableBy(headers), Connection: 'close' }).end();
        return;
      }
      if (method === 'GET' && headers.accept?.includes('text/event-stream') === true) {
        // A browser's EventSource never comes back after another status than 200.
        const type = STREAM_CONTENT_TYPES.sse;
        response.writeHead(200, { ...readableBy(headers), 'Content-Type': type, Connection: 'close' });
        response.end(farewell('sse', draining));
        return;
      }
      response.writeHead(status, STATUS_CODES[status], {
        ...readableBy(headers),
        'Content-Type': 'application/json; charset=utf-8',
        'Content-Length': Buffer.byteLength(body),
        'Retry-After': '1',
        Connection: 'close',
      });
      response.end(body);
    });
  });
  server.on('checkExpectation', (request, response) => server.emit('request', request, response));
  return (socket, bytes) => {
    const timer = setTimeout(() => socket.destroy(), PATIENCE_MS).unref();
    socket.once('close', () => clearTimeout(timer));
    server.emit('connection', socket);
    if (bytes !== undefined) {
      socket.unshift(bytes);
    }
  };
}

/**
 * CORS headers that let every page read the answer: it only says when to come back. Without them a browser would report an
 * error of CORS instead.
 */
function readableBy(headers: IncomingHttpHeaders): Record<string, string> {
  const { origin } = headers;
  const method = headers['access-control-request-method'];
  const names = headers['access-control-request-headers'];
  return origin === undefined
    ? {}
    : {
        'Access-Control-Allow-Origin': origin,
        'Access-Control-Allow-Credentials': 'true',
        'Access-Control-Expose-Headers': 'Retry-After',
        Vary: 'Origin',
        ...(method === undefined ? {} : { 'Access-Control-Allow-Methods': method }),
        ...(names === undefined ? {} : { 'Access-Control-Allow-Headers': names }),
      };
}
