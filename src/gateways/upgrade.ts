import { STATUS_CODES } from 'node:http';
import type { Duplex } from 'node:stream';
import { errorEntry, type TaskwireError } from '../protocol/errors.js';

/** Answers a request for an upgrade with an error, and ends its connection. */
export function refuseUpgrade(socket: Duplex, { body: error, code, options: { retryAfterMs } }: TaskwireError): void {
  const { status } = errorEntry(code);
  const text = JSON.stringify({ error });
  const lines = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
    'Connection: close',
    'Content-Type: application/json; charset=utf-8',
    `Content-Length: ${Buffer.byteLength(text)}`,
    ...(retryAfterMs === undefined ? [] : [`Retry-After: ${Math.ceil(retryAfterMs / 1_000)}`]),
    '',
    text,
  ];
  // Nobody else listens to its errors.
  socket.on('error', () => {});
  socket.end(lines.join('\r\n'), () => socket.destroy());
}
