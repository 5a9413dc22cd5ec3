import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';

/** The last request of a connection that has come. */
export interface Exchange {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  /** The answer to the request before it on the same connection. */
  readonly earlier: ServerResponse | undefined;
}

/**
 * What the connections of a server were asked last: what is no request for the listeners has to wait for the answers ahead of it.
 * Answers leave in the order of their requests: when the last one has left, all have.
 */
export class Exchanges {
  private readonly last = new WeakMap<Socket, Exchange>();

  constructor(server: Server) {
    server.prependListener('request', (request: IncomingMessage, response: ServerResponse) => {
      this.last.set(request.socket, { request, response, earlier: this.of(request.socket)?.response });
    });
  }

  of(socket: Socket): Exchange | undefined {
    return this.last.get(socket);
  }
}

/** Whether an answer has not left yet, and its connection is there. */
export const isUnderWay = (response: ServerResponse | undefined): response is ServerResponse =>
  response !== undefined && !response.closed;
