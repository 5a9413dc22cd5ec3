import WebSocket from 'ws';
import { eventually } from './eventually.js';

// biome-ignore lint/suspicious/noExplicitAny: tests look into messages of every form
type Any = any;

/** A plain client that keeps everything it is sent. */
export class PlainClient {
  readonly messages: Any[] = [];
  readonly texts: string[] = [];
  closed: { code: number; reason: string } | undefined;
  readonly socket: WebSocket;

  constructor(url: string, headers: Record<string, string> = {}, protocols: string[] = []) {
    this.socket = new WebSocket(url.replace('http', 'ws'), protocols, { headers });
    this.socket.on('error', () => {});
    this.socket.on('message', (bytes) => {
      this.texts.push(String(bytes));
      this.messages.push(JSON.parse(String(bytes)));
    });
    this.socket.on('close', (code, reason) => {
      this.closed = { code, reason: String(reason) };
    });
  }

  send(message: unknown): void {
    this.socket.send(typeof message === 'string' || Buffer.isBuffer(message) ? message : JSON.stringify(message));
  }

  /** The message that answers a request. */
  answer(request_id: string): Promise<Any> {
    return this.find((message) => message.request_id === request_id);
  }

  find(wanted: (message: Any) => boolean): Promise<Any> {
    return eventually(() => {
      const message = this.messages.find(wanted);
      if (message === undefined) {
        throw new Error(`not among ${JSON.stringify(this.messages).slice(0, 2_000)}`);
      }
      return message;
    });
  }

  ended(): Promise<{ code: number; reason: string }> {
    return eventually(() => {
      if (this.closed === undefined) {
        throw new Error('still open');
      }
      return this.closed;
    });
  }
}
