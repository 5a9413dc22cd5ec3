import type { IncomingMessage, Server } from 'node:http';
import type { Socket } from 'node:net';
import { hasBody } from './answer-after-request.js';
import { type Exchanges, isUnderWay } from './exchanges.js';

type Taker = (request: IncomingMessage, socket: Socket, head: Buffer) => void;

/**
 * Answers requests that offer another protocol than WebSockets (`Upgrade: h2c`, as curl --http2 and some HTTP libraries send
 * by default) as if they did not: a server may ignore such an offer. So are requests with a body, or of another method than GET, whatever
 * they offer: no WebSocket begins like that, and they are read before they are answered, as all requests are.
 *
 * One that was sent behind other requests waits for their answers, as all requests do. To be called when all listeners for upgrades are
 * there.
 */
export function ignoreOtherUpgrades(server: Server, exchanges: Exchanges): void {
  const takers = server.listeners('upgrade') as Taker[];
  const take: Taker = (request, socket, head) => {
    if (mayBecomeWebsocket(request)) {
      for (const taker of takers) {
        taker.call(server, request, socket, head);
      }
    } else {
      // Node.js has taken its parser off this connection. It gets a new one, and reads the request again without the offer.
      server.emit('connection', socket);
      // Bytes that are put back would have the parser read on after a pause. With a listener, even for a moment, it does not.
      socket.on('data', ignore);
      socket.off('data', ignore);
      socket.unshift(Buffer.concat([Buffer.from(headOf(request), 'latin1'), head]));
    }
  };
  server.removeAllListeners('upgrade');
  server.on('upgrade', (request: IncomingMessage, socket: Socket, head: Buffer) => {
    const before = exchanges.of(socket)?.response;
    if (!isUnderWay(before)) {
      take(request, socket, head);
      return;
    }
    // Node.js listens to the connection no more; an error that nobody hears would end the process.
    socket.on('error', ignore);
    before.once('close', () => {
      // An answer may have ended the connection: what was sent behind it is not handled.
      if (socket.writable) {
        socket.off('error', ignore);
        // It was about to be closed as idle.
        socket.setTimeout(0);
        take(request, socket, head);
      }
    });
  });
}

const ignore = (): void => {};

const mayBecomeWebsocket = (request: IncomingMessage): boolean =>
  request.method === 'GET' && !hasBody(request) && tokensOf(request.headers.upgrade).includes('websocket');

const tokensOf = (value: string | undefined): string[] =>
  (value ?? '').split(',').map((token) => token.trim().toLowerCase());

/** Names of headers that belong to the offer of another protocol. */
const OFFER = ['upgrade', 'http2-settings'];

/** The head of a request as it came, without its offer of another protocol. */
function headOf({ method, url, httpVersion, rawHeaders }: IncomingMessage): string {
  const lines = [`${method} ${url} HTTP/${httpVersion}`];
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const [name, value] = [rawHeaders[index]!, rawHeaders[index + 1]!];
    const kept =
      name.toLowerCase() === 'connection'
        ? value
            .split(',')
            .filter((token) => !OFFER.includes(token.trim().toLowerCase()))
            .join(',')
        : value;
    if (!OFFER.includes(name.toLowerCase()) && (kept !== '' || value === '')) {
      lines.push(`${name}: ${kept}`);
    }
  }
  return `${lines.join('\r\n')}\r\n\r\n`;
}
