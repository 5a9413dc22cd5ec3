import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

const ignore = (): void => {};

/**
 * Has a server that listens nowhere treat the connections that it is handed over as it would treat its own.
 * @param socketioPath where Socket.IO's sessions are opened
 */
export function serveHandedOver(http: Server, socketioPath: string): void {
  // Starts its checks for requests that never come to an end.
  http.emit('listening');
  // The parser reads by itself from the system, and a pause does not stop it once bytes were put back, as the request line
  // is: a body that nobody reads would grow without bound. Whoever listens to the bytes, once, takes the reading from it.
  http.on('connection', (socket: Socket) => {
    socket.on('data', ignore);
    socket.off('data', ignore);
  });
  // A session is answered before it is announced to the primary: a client that is quick would come back to a primary that
  // does not know where the session is.
  http.prependListener('request', ({ url = '' }: IncomingMessage, response: ServerResponse) => {
    if (url.startsWith(socketioPath) && !url.includes('sid=')) {
      const end = response.end.bind(response) as (text?: string) => ServerResponse;
      response.end = ((text?: string): ServerResponse => {
        setImmediate(end, text);
        return response;
      }) as typeof response.end;
    }
  });
}
