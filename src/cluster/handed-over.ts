import type { EventEmitter } from 'node:events';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { Socket } from 'node:net';
import { ENGINE_PATH } from '../protocol/paths.js';
import { isMessage, type StickyConnection } from './messages.js';
import type { SessionReport } from './session-report.js';

const ignore = (): void => {};

/**
 * Has a server that listens nowhere treat the connections that the primary hands over as it would treat its own. This is the
 * worker's part of sticky sessions.
 * @param engine Engine.IO, which tells of new sessions
 */
export function serveHandedOver(http: Server, engine: EventEmitter, report: SessionReport): void {
  process.on('message', (message, socket) => {
    // Without a socket: it was closed on the way.
    if (isMessage<StickyConnection>(message, 'sticky:connection') && socket instanceof Socket) {
      http.emit('connection', socket);
      socket.unshift(message.data);
    }
  });
  // Starts its checks for requests that never come to an end.
  http.emit('listening');
  // The parser reads by itself from the system, and a pause does not stop it once bytes were put back, as the request line
  // is: a body that nobody reads would grow without bound. Whoever listens to the bytes, once, takes the reading from it.
  http.on('connection', (socket: Socket) => {
    socket.on('data', ignore);
    socket.off('data', ignore);
  });
  http.prependListener('request', ({ url = '' }: IncomingMessage, response: ServerResponse) => {
    // The next request of the connection could be of another worker's session.
    response.setHeader('Connection', 'close');
    if (url.startsWith(ENGINE_PATH) && !url.includes('sid=')) {
      answerWhenReported(response, report);
    }
  });

  function onClose(this: { readonly id: string }): void {
    report.close(this.id);
  }
  engine.on('connection', (session: EventEmitter & { readonly id: string }) => {
    report.open(session.id);
    session.on('close', onClose);
  });
}

/**
 * A session is answered before it is made known here: a client that is quick would come back to a primary that does not
 * know where the session is.
 */
function answerWhenReported(response: ServerResponse, report: SessionReport): void {
  const end = response.end.bind(response) as (text?: string) => ServerResponse;
  response.end = ((text?: string): ServerResponse => {
    setImmediate(() => {
      report.send();
      end(text);
    });
    return response;
  }) as typeof response.end;
}
