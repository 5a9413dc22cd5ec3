import { STATUS_CODES } from 'node:http';
import type { Duplex } from 'node:stream';
import type { WebSocketServer } from 'ws';
import { errorEntry, TaskwireError } from '../protocol/errors.js';

/** Answers a request for an upgrade with an error, and ends its connection. */
export function refuseUpgrade(
  socket: Duplex,
  { body: error, code, options: { retryAfterMs } }: TaskwireError,
  headers: readonly string[] = [],
): void {
  const { status } = errorEntry(code);
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

/** Has handshakes that `ws` finds wrong, as one without a key, refused as everything else is. */
export function refuseWrongHandshakes(sockets: WebSocketServer): void {
  sockets.on('wsClientError', ({ message }, socket) =>
    refuseUpgrade(socket, new TaskwireError('INVALID_REQUEST', { message }), ['Sec-WebSocket-Version: 13, 8']),
  );
}
