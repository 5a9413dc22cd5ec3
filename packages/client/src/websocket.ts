import { comesBack, type ErrorBody } from './protocol.js';
import { refusal } from './refusal.js';
import type { Answer, Transport } from './transport.js';

/** What this transport uses of a WebSocket: that of a browser, of Node.js from 22, or of the package `ws`. */
export interface WebSocketLike {
  onopen: (() => void) | null;
  onmessage: ((event: { data: unknown }) => void) | null;
  onclose: ((event: { code: number; reason: string }) => void) | null;
  onerror: (() => void) | null;
  send(text: string): void;
  close(): void;
}

/** A constructor of WebSockets. */
// biome-ignore lint/suspicious/noExplicitAny: constructors of browsers and of packages differ in what they take
export type WebSocketConstructor = new (url: string, ...rest: any[]) => unknown;

interface PlainMessage {
  readonly type: string;
  readonly seq?: number;
  readonly epoch?: string;
  readonly data?: unknown;
  readonly request_id?: number;
}

/** The address of the plain WebSocket. */
const PATH = '/api/ws/tasks';

/**
 * The plain WebSocket: what every browser has.
 * @param options `WebSocket`: a constructor to use instead of the global one, as on Node.js before 22
 */
export const websocket =
  (options: { readonly WebSocket?: WebSocketConstructor } = {}): Transport =>
  ({ url, credential }, events) => {
    const base = globalThis.location?.href;
    const address = new URL(url.replace(/\/$/, '') + PATH, base);
    address.protocol = address.protocol.replace('http', 'ws');
    const waiting = new Map<number | undefined, (answer: Answer) => void>();
    let requests = 0;
    let refused: ErrorBody | undefined;
    const Constructor = options.WebSocket ?? globalThis.WebSocket;
    const socket = new Constructor(address.href) as WebSocketLike;

    const send = (type: string, data: unknown, answered: (answer: Answer) => void): void => {
      requests += 1;
      waiting.set(requests, answered);
      socket.send(JSON.stringify({ type, data, request_id: requests }));
    };
    // The credential is the first message, so that no address holds a secret. A refusal is followed by the close.
    socket.onopen = () =>
      send('AUTH', { token: credential.token, api_key: credential.apiKey }, (answer) => {
        if ('data' in answer) {
          events.opened();
        }
      });
    socket.onmessage = ({ data: text }) => {
      const message = JSON.parse(text as string) as PlainMessage;
      const { type, data, request_id: id } = message;
      const answered = waiting.get(id);
      if (type === 'ERROR') {
        refused = data as ErrorBody;
      }
      if (answered !== undefined) {
        waiting.delete(id);
        answered(
          type === 'ERROR'
            ? { error: refused! }
            : { data: type === 'SUCCESS' ? (data as { data?: unknown }).data : data },
        );
      } else if (type !== 'ERROR') {
        events.message(message);
      }
    };
    socket.onerror = () => {};
    socket.onclose = ({ code, reason }) => {
      const later = comesBack(code);
      const end = refusal(refused?.code === reason ? refused : { code: reason, message: reason });
      events.ended({
        ...end,
        later,
        ...(reason === '' ? { code: 'CONNECTION_LOST', message: `Closed (${code})` } : {}),
      });
    };

    return {
      send,
      close: () => {
        socket.onopen = socket.onmessage = socket.onclose = null;
        // A socket that is closed while it connects reports an error to whoever listens.
        socket.close();
      },
    };
  };
