import { STATUS_CODES } from 'node:http';
import type { Duplex } from 'node:stream';
import { errorEntry, type TaskwireError } from '../protocol/errors.js';

export interface ErrorAnswerOptions {
  /** The status, where it is not the one of the code. */
  readonly status?: number;
  /** Further lines of the head. */
  readonly headers?: readonly string[];
}

/** Answers a connection that has no HTTP response with an error, as REST does, and ends it. */
export function endWithError(
  socket: Duplex,
  { body: error, code, options: { retryAfterMs } }: TaskwireError,
  { status = errorEntry(code).status, headers = [] }: ErrorAnswerOptions = {},
): void {
  const text = JSON.stringify({ error });
  const lines = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
    'Connection: close',
    'Content-Type: application/json; charset=utf-8',
    `Content-Length: ${Buffer.byteLength(text)}`,
    ...(retryAfterMs === undefined ? [] : [`Retry-After: ${Math.ceil(retryAfterMs / 1_000)}`]),
    ...headers,
    '',
    text,
  ];
  // Nobody else listens to its errors.
  socket.on('error', () => {});
  socket.end(lines.join('\r\n'), () => socket.destroy());
}
