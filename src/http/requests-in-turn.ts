import type { IncomingMessage, RequestListener, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { isUnderWay } from './exchanges.js';

/** Most requests of a connection that wait for the answers before them. */
const MAX_WAITING = 100;

/** The requests of a connection that have come. */
interface Line {
  /** The answer to the last one of them. */
  last: ServerResponse;
  waiting: number;
  /** There were too many: the last answer ends the connection. */
  full: boolean;
}

/**
 * Handles the requests of a connection one after the other, as their answers leave. Node.js would hand on at once all that a client sends
 * without waiting (pipelining). Then a write behind an answer that ends its connection would be made, and never answered; whatever
 * waits behind an answer would not learn that its client has gone; and a connection would have any number of requests in
 * flight. To be called when all listeners that handle requests are there.
 */
export function handleInTurn(server: Server): void {
  const takers = server.listeners('request') as RequestListener[];
  const lines = new WeakMap<Socket, Line>();
  const handle = (request: IncomingMessage, response: ServerResponse): void => {
    for (const take of takers) {
      take.call(server, request, response as Parameters<RequestListener>[1]);
    }
  };
  server.removeAllListeners('request');
  server.on('request', (request: IncomingMessage, response: ServerResponse) => {
    const line = lines.get(request.socket);
    // It may come when an answer has ended the connection, which goes on being read until that has reached the system.
    if (line?.full || !request.socket.writable) {
      drop(request, response);
      return;
    }
    if (line === undefined || !isUnderWay(line.last)) {
      lines.set(request.socket, { last: response, waiting: 0, full: false });
      handle(request, response);
      return;
    }
    const before = line.last;
    line.last = response;
    line.waiting += 1;
    line.full = line.waiting === MAX_WAITING;
    if (line.full) {
      response.setHeader('Connection', 'close');
    }
    before.once('close', () => {
      line.waiting -= 1;
      // Its turn does not come when the answer before it has ended the connection, or the client has.
      if (response.socket?.writable) {
        handle(request, response);
      }
    });
  });
}

/** An answer that is never sent, since the connection ends before: it has Node.js stop reading when there are many of them. */
function drop(request: IncomingMessage, response: ServerResponse): void {
  request.resume();
  response.writeHead(503).end();
}
