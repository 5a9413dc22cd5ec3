import { maxHeaderSize, type Server } from 'node:http';
import type { Socket } from 'node:net';
import { type ErrorAnswerOptions, endWithError } from '../door/error-answer.js';
import { TaskwireError } from '../protocol/errors.js';
import { type Exchanges, isUnderWay } from './exchanges.js';

/** What Node.js says of bytes that its parser does not take. */
interface ReadError extends Error {
  readonly code?: string;
  /** The parser's own words. */
  readonly reason?: string;
}

/**
 * Answers what is no request with an error of the table, in its turn. Node.js would answer without a body, and at once: before the
 * answers to requests that came before it on the connection, so that a client takes it for one of these.
 */
export function answerUnreadable(server: Server, exchanges: Exchanges): void {
  const refused = new WeakSet<Socket>();
  server.on('clientError', (error: ReadError, socket: Socket) => {
    // What else comes on the connection cannot be read either, and takes no time of ours while an answer is under way.
    socket.pause();
    if (refused.has(socket)) {
      return;
    }
    refused.add(socket);
    if (error.code === 'ECONNRESET') {
      socket.destroy();
      return;
    }
    const { request, response, earlier } = exchanges.of(socket) ?? {};
    // Either the body of the last request cannot be read, or what stands in the place of the next one.
    const itsBody = request?.complete === false;
    const before = itsBody ? earlier : response;
    const answer = (): void => {
      if (socket.writable && !(itsBody && response?.headersSent)) {
        refuse(socket, error);
      } else {
        socket.destroy();
      }
    };
    isUnderWay(before) ? before.once('close', answer) : answer();
  });
}

function refuse(socket: Socket, { code, reason }: ReadError): void {
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') {
    socket.end('HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n', () => socket.destroy());
    return;
  }
  const [message, options]: [message: string, options?: ErrorAnswerOptions] =
    code === 'HPE_HEADER_OVERFLOW'
      ? [`The head of a request may have ${maxHeaderSize} bytes`, { status: 431 }]
      : [`This cannot be read as an HTTP request${reason ? `: ${reason}` : ''}`];
  endWithError(socket, new TaskwireError('INVALID_REQUEST', { message }), options);
}
