import { io, type Socket } from 'socket.io-client';
import WebSocket from 'ws';
import type { SubscribeResult } from '../../src/protocol/messages.js';

export interface Message {
  type: string;
  seq?: number;
  data: Record<string, unknown>;
  request_id?: string;
}

/** A wire that stays connected by itself; the subscriber above it knows rooms and positions. */
export interface Link {
  subscribe(rooms: unknown[]): void;
  drop(): void;
  close(): void;
}

export interface LinkEvents {
  open(): void;
  message(message: Message): void;
  subscribed(results: Array<SubscribeResult | { room: string; error: { code: string } }>): void;
  refused(code: string): void;
}

export const RECONNECT_MS = 50;

export class PlainLink implements Link {
  private socket: WebSocket | undefined;
  private closed = false;
  private requests = 0;

  constructor(
    private readonly url: string,
    private readonly key: string,
    private readonly events: LinkEvents,
  ) {
    this.connect();
  }

  subscribe(rooms: unknown[]): void {
    this.requests += 1;
    this.socket?.send(JSON.stringify({ type: 'SUBSCRIBE', data: { rooms }, request_id: `${this.requests}` }));
  }

  drop(): void {
    this.socket?.terminate();
  }

  close(): void {
    this.closed = true;
    this.socket?.terminate();
  }

  private connect(): void {
    const address = `${this.url.replace(/^http/, 'ws')}/api/ws/tasks`;
    const socket = new WebSocket(address, { headers: { 'x-api-key': this.key }, handshakeTimeout: 10_000 });
    this.socket = socket;
    socket.on('error', () => {});
    socket.once('open', () => this.events.open());
    socket.on('message', (bytes) => {
      const message = JSON.parse(String(bytes)) as Message;
      if (message.type === 'SUCCESS') {
        const { rooms } = message.data['data'] as { rooms: SubscribeResult[] };
        this.events.subscribed(rooms);
      } else if (message.type === 'ERROR') {
        this.events.refused(String(message.data['code']));
        socket.close();
      } else {
        this.events.message(message);
      }
    });
    socket.once('close', () => {
      if (!this.closed) {
        setTimeout(() => !this.closed && this.connect(), RECONNECT_MS);
      }
    });
  }
}

export class SocketioLink implements Link {
  private readonly socket: Socket;

  constructor(
    url: string,
    key: string,
    private readonly events: LinkEvents,
  ) {
    this.socket = io(`${url}/api/ws/tasks`, {
      auth: { api_key: key },
      transports: ['websocket'],
      forceNew: true,
      reconnectionDelay: RECONNECT_MS,
      reconnectionDelayMax: 4 * RECONNECT_MS,
      timeout: 10_000,
    });
    this.socket.on('connect', () => events.open());
    this.socket.onAny((_type, message: Message) => events.message(message));
    this.socket.on('connect_error', (error: Error & { data?: { code?: string } }) => {
      const code = error.data?.code;
      if (code !== undefined) {
        events.refused(code);
        // A refusal by the application ends socket.io-client's own attempts.
        setTimeout(() => this.socket.connect(), RECONNECT_MS);
      }
    });
  }

  subscribe(rooms: unknown[]): void {
    this.socket.emit('SUBSCRIBE', { rooms }, (answer: { rooms?: SubscribeResult[]; error?: { code: string } }) => {
      if (answer.rooms !== undefined) {
        this.events.subscribed(answer.rooms);
      } else {
        this.events.refused(answer.error?.code ?? 'no answer');
        this.drop();
      }
    });
  }

  drop(): void {
    this.socket.io.engine?.close();
  }

  close(): void {
    this.socket.disconnect();
  }
}
