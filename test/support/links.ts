import { Agent } from 'node:http';
import { io, type Socket } from 'socket.io-client';
import WebSocket from 'ws';
import type { SubscribeResult } from '../../src/protocol/messages.js';

/** A message as the plain wire has it. */
export interface Message {
  type: string;
  seq?: number;
  data: Record<string, unknown>;
  request_id?: string;
}

export type RoomAnswer = SubscribeResult | { room: string; error: { code: string } };

/** Where a link leads, and as whom. */
export interface LinkTarget {
  readonly url: string;
  readonly key: string;
  readonly rooms: readonly string[];
  /** An address of this machine from which it connects. */
  readonly localAddress?: string;
  /** How long it waits before it comes back, in milliseconds: 50. */
  readonly reconnectMs?: number;
}

/** A wire that stays connected by itself; who listens knows rooms and positions. */
export interface Link {
  readonly connected: boolean;
  subscribe(rooms: unknown[]): void;
  drop(): void;
  close(): void;
}

export interface LinkEvents {
  /** @param resumes whether this connection says where the one before stopped (true) */
  open(resumes?: boolean): void;
  message(message: Message): void;
  subscribed(results: RoomAnswer[]): void;
  refused(code: string): void;
}

export type LinkOpener = (target: LinkTarget, events: LinkEvents) => Link;

export const RECONNECT_MS = 50;

export class PlainLink implements Link {
  private socket: WebSocket | undefined;
  private closed = false;
  private requests = 0;

  constructor(
    private readonly target: LinkTarget,
    private readonly events: LinkEvents,
  ) {
    this.connect();
  }

  get connected(): boolean {
    return this.socket?.readyState === WebSocket.OPEN;
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
    const { url, key, localAddress } = this.target;
    const socket = new WebSocket(`${url.replace(/^http/, 'ws')}/api/ws/tasks`, {
      headers: { 'x-api-key': key },
      handshakeTimeout: 10_000,
      ...(localAddress === undefined ? {} : { localAddress }),
    });
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
        setTimeout(() => !this.closed && this.connect(), this.target.reconnectMs ?? RECONNECT_MS);
      }
    });
  }
}

export class SocketioLink implements Link {
  private readonly socket: Socket;

  constructor(
    { url, key, localAddress, reconnectMs = RECONNECT_MS }: LinkTarget,
    private readonly events: LinkEvents,
  ) {
    this.socket = io(`${url}/api/ws/tasks`, {
      auth: { api_key: key },
      transports: ['websocket'],
      forceNew: true,
      reconnectionDelay: reconnectMs,
      reconnectionDelayMax: 4 * reconnectMs,
      timeout: 10_000,
      ...(localAddress === undefined ? {} : { agent: new Agent({ localAddress }) as never }),
    });
    this.socket.on('connect', () => events.open());
    this.socket.onAny((_type, message: Message) => events.message(message));
    this.socket.on('connect_error', (error: Error & { data?: { code?: string } }) => {
      const code = error.data?.code;
      if (code !== undefined) {
        events.refused(code);
        // A refusal by the application ends socket.io-client's own attempts.
        setTimeout(() => this.socket.connect(), reconnectMs);
      }
    });
  }

  get connected(): boolean {
    return this.socket.connected;
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
