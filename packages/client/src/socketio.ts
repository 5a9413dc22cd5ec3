import type { ErrorBody } from './protocol.js';
import { refusal } from './refusal.js';
import type { Incoming, Transport } from './transport.js';

/** What this transport uses of a socket of socket.io-client 4. */
interface SocketLike {
  on(event: string, listener: (...given: never[]) => void): unknown;
  onAny(listener: (...given: never[]) => void): unknown;
  emit(event: string, ...given: unknown[]): unknown;
  removeAllListeners(): unknown;
  offAny(): unknown;
  disconnect(): unknown;
}

/** `io` of socket.io-client 4. */
export type Io = (...given: never[]) => unknown;

/** The namespace of tasks. */
const NAMESPACE = '/api/ws/tasks';

/**
 * Socket.IO, for where WebSockets do not come through: it falls back to long polling.
 * @param io of socket.io-client, version 4
 * @param options more options for it; reconnecting is the client's part
 */
export const socketio =
  (io: Io, options: Record<string, unknown> = {}): Transport =>
  ({ url, credential: { token, apiKey } }, events) => {
    const open = io as unknown as (url: string, options: Record<string, unknown>) => SocketLike;
    const socket = open(url.replace(/\/$/, '') + NAMESPACE, {
      ...options,
      auth: { token, api_key: apiKey },
      forceNew: true,
      reconnection: false,
    });
    let refused: ErrorBody | undefined;
    const close = (): void => {
      socket.removeAllListeners();
      socket.offAny();
      socket.disconnect();
    };
    const lost = (message: string): void => {
      close();
      events.ended(refused === undefined ? { later: true, code: 'CONNECTION_LOST', message } : refusal(refused));
    };

    socket.on('connect', () => events.opened());
    socket.on('connect_error', (error: Error & { data?: ErrorBody }) => {
      refused = error.data?.code === undefined ? undefined : error.data;
      lost(error.message);
    });
    socket.on('disconnect', (reason: string) => {
      // A server that ends a connection for good says why before.
      lost(reason);
    });
    socket.onAny((type: string, message: Incoming) => {
      if (type === 'ERROR') {
        refused = message.data as ErrorBody;
      } else {
        events.message({ ...message, type });
      }
    });

    return {
      send: (type, data, answered) => {
        socket.emit(type, data, (answer: { readonly error?: ErrorBody }) =>
          answered(answer.error === undefined ? { data: answer } : { error: answer.error }),
        );
      },
      close,
    };
  };
