import type { WebSocketServer } from 'ws';
import { endWithError } from '../door/error-answer.js';
import { TaskwireError } from '../protocol/errors.js';

/** Has handshakes that `ws` finds wrong, as one without a key, refused as everything else is. */
export function refuseWrongHandshakes(sockets: WebSocketServer): void {
  sockets.on('wsClientError', ({ message }, socket) =>
    endWithError(socket, new TaskwireError('INVALID_REQUEST', { message }), {
      headers: ['Sec-WebSocket-Version: 13, 8'],
    }),
  );
}
