import type { IncomingMessage, Server, ServerResponse } from 'node:http';

/** How much of a request is read that nobody wants, in bytes, and for how long, in milliseconds. */
const MAX_BYTES = 8 * 1_024 * 1_024;
const PATIENCE_MS = 10_000;

/**
 * Has a server answer no request before it has been read, whoever refuses it and why: 401, 404, 413. A proxy that gets an answer
 * while it still sends the body may take the connection for broken, or ask another instance and put both answers together; and a
 * connection that is closed with unread bytes is reset, and its answer lost. A body that is longer than 8 MiB, or takes
 * longer than ten seconds, is not waited for. To be called when all listeners for requests are there.
 */
export function answerAfterRequests(server: Server): void {
  server.prependListener('request', (request: IncomingMessage, response: ServerResponse) => {
    if (hasBody(request)) {
      hold(request, response);
    }
  });
  // Node.js would answer an unknown `Expect` by itself.
  server.on('checkExpectation', (request, response) => server.emit('request', request, response));
}

/** Whether bytes of a request come after its head. */
export const hasBody = ({ headers }: IncomingMessage): boolean =>
  headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0';

function hold(request: IncomingMessage, response: ServerResponse): void {
  const end = response.end.bind(response) as (...args: unknown[]) => ServerResponse;
  let held = false;
  response.end = (...args: unknown[]): ServerResponse => {
    if (held || request.complete || request.destroyed) {
      return held ? response : end(...args);
    }
    held = true;
    void rest(request).then(() => {
      if (!request.complete && !response.headersSent) {
        response.setHeader('Connection', 'close');
      }
      end(...args);
    });
    return response;
  };
}

/** Reads what is left of a request and drops it. Resolves at its end, or when that takes too much. */
function rest(request: IncomingMessage): Promise<void> {
  return new Promise((resolve) => {
    let bytes = 0;
    const done = (): void => {
      clearTimeout(timer);
      request.off('data', count);
      resolve();
    };
    const count = (chunk: Buffer | string): void => {
      bytes += chunk.length;
      if (bytes > MAX_BYTES) {
        done();
      }
    };
    const timer = setTimeout(done, PATIENCE_MS);
    request.on('data', count);
    request.once('end', done);
    request.once('close', done);
    request.resume();
  });
}
