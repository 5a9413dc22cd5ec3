import { EventEmitter } from 'node:events';
import type { ServerResponse } from 'node:http';
import type { Writable } from 'node:stream';
import { type RawData, WebSocket } from 'ws';
import type { EngineConnection, EngineSocket } from './engine.js';
import type { PingTimer } from './ping-timer.js';

/** Types of packets, as Engine.IO 4 writes them. */
const OPEN = '0';
const PING = '2';
const PONG = '3';
const MESSAGE = '4';
const BASE64 = 'b';
/** What a client may send that means nothing here: open, close, upgrade and noop. */
const WITHOUT_MEANING: readonly string[] = ['0', '1', '5', '6'];

/** What a client is told at the beginning. Times are milliseconds. */
export interface EngineTerms {
  readonly pingInterval: number;
  readonly pingTimeout: number;
  /** Bytes of the longest packet that it may send. */
  readonly maxPayload: number;
}

/** Why a session has ended, in Engine.IO's words. */
type Reason = 'transport close' | 'transport error' | 'parse error' | 'ping timeout' | 'forced close';

/** A packet, as listeners of Engine.IO's events get it. */
interface Packet {
  readonly type: 'message' | 'pong' | 'noop';
  data?: unknown;
}

/** A WebSocket that knows its session, so that one set of handlers serves all. */
type SessionSocket = EngineSocket & { session?: EngineWebsocket };

/** How Socket.IO wants a packet to be written. */
interface WriteOptions {
  /** Nothing is compressed here. */
  readonly compress?: boolean;
  /** The packet as a frame, in parts: made once for all who get it. */
  readonly wsPreEncodedFrame?: readonly Buffer[];
}

/**
 * A session of Engine.IO 4 that begins as a WebSocket and stays one. For Socket.IO it is a connection like one of Engine.IO's, with
 * the parts and events that Socket.IO and this project use: `data`, `packet`, `packetCreate` of messages, and `close`.
 *
 * Engine.IO can move a session from one transport to another, so it keeps a queue, a transport and a dozen listeners for each,
 * and awaits its middleware. This session has none of that: what is written goes to the socket at once.
 */
export class EngineWebsocket extends EventEmitter implements EngineConnection {
  readonly protocol = 4;
  readonly name = 'websocket';
  readonly upgrading = false;
  /** Says that it has moved to another transport already: Engine.IO refuses it a further one. */
  readonly upgraded = true;
  readyState: 'open' | 'closed' = 'open';
  /** When its interval began, mostly by a pong: a client counts on a ping in every interval, whatever else it gets. */
  heardAt = performance.now();
  pingedAt = 0;
  private refreshed = false;

  /**
   * @param id as Engine.IO makes them
   * @param request the upgrade, for Socket.IO's handshake
   */
  constructor(
    readonly id: string,
    readonly socket: EngineSocket,
    public request: unknown,
    private readonly pings: PingTimer,
  ) {
    super();
    (socket as SessionSocket).session = this;
    socket.on('message', onMessage);
    socket.on('error', onError);
    socket.on('close', onClose);
    pings.add(this);
  }

  /** Tells the client about its session. */
  open(terms: EngineTerms): void {
    this.socket.send(OPEN + JSON.stringify({ sid: this.id, upgrades: [], ...terms }));
  }

  get transport(): this {
    return this;
  }

  /** Whether what is written leaves at once. Socket.IO drops volatile packets otherwise. */
  get writable(): boolean {
    return this.readyState === 'open' && (this.stream?.writableLength ?? 0) === 0;
  }

  /** Nothing waits here: it waits in the socket. */
  get writeBuffer(): readonly unknown[] {
    return NOTHING;
  }

  get remoteAddress(): string | undefined {
    return (this.stream as { remoteAddress?: string } | null)?.remoteAddress;
  }

  write(data: string | Buffer, { wsPreEncodedFrame: frame }: WriteOptions = {}): void {
    if (this.canSend()) {
      const packet: Packet = { type: 'message', data };
      // A listener may write something else instead.
      this.emit('packetCreate', packet);
      const { socket, stream } = this;
      if (frame !== undefined && packet.data === data && stream !== null) {
        stream.cork();
        for (const part of frame) {
          stream.write(part);
        }
        stream.uncork();
      } else {
        socket.send(typeof packet.data === 'string' ? MESSAGE + packet.data : (packet.data as Buffer));
      }
    }
  }

  sendPacket(_type: 'ping'): void {
    if (this.canSend()) {
      this.socket.send(PING);
    }
  }

  ping(): void {
    this.pingedAt = performance.now();
    this.refreshed = false;
    this.sendPacket('ping');
  }

  close(): void {
    this.end('forced close');
  }

  /** No pong came in time. A client that is only slow may still read what waits, and why it is closed. */
  unanswered(): void {
    this.end('ping timeout');
  }

  /** Engine.IO hands on requests that are no upgrades and name this session and its transport. */
  onRequest({ res }: { readonly res: ServerResponse }): void {
    res.writeHead(400, { 'Content-Type': 'application/json' }).end(IS_WEBSOCKET);
  }

  receive(data: RawData, isBinary: boolean): void {
    if (this.readyState !== 'open') {
      return;
    }
    const text = isBinary ? MESSAGE : String(data);
    const type = text.charAt(0);
    if (type === MESSAGE) {
      this.take({ type: 'message', data: isBinary ? data : text.slice(1) || undefined });
    } else if (type === PONG) {
      this.pingedAt = 0;
      this.heardAt = performance.now();
      this.take({ type: 'pong' });
    } else if (type === BASE64) {
      this.take({ type: 'message', data: Buffer.from(text.slice(1), 'base64') });
    } else if (WITHOUT_MEANING.includes(type)) {
      this.take({ type: 'noop' });
    } else {
      // A ping too: since protocol 4 only servers ping.
      this.end(type === PING ? 'transport error' : 'parse error');
    }
  }

  end(reason: Reason): void {
    if (this.readyState === 'open') {
      this.readyState = 'closed';
      this.pings.delete(this);
      this.socket.close();
      this.emit('close', reason);
    }
  }

  /** Whether something can be sent. A session whose WebSocket is being closed ends when it is found out, as Engine.IO's do. */
  private canSend(): boolean {
    if (this.readyState !== 'open') {
      return false;
    }
    if (this.socket.readyState !== WebSocket.OPEN) {
      process.nextTick(() => this.end('transport error'));
      return false;
    }
    return true;
  }

  private take(packet: Packet): void {
    if (this.pingedAt > 0 && !this.refreshed) {
      // Once in an interval: a client that sends much may come to the ping late.
      this.pingedAt = performance.now();
      this.refreshed = true;
    }
    this.emit('packet', packet);
    if (packet.type === 'message') {
      this.emit('data', packet.data);
    }
  }

  private get stream(): Writable | null {
    return this.socket._socket;
  }
}

/** In Engine.IO's words. */
const IS_WEBSOCKET = JSON.stringify({ code: 3, message: 'Bad request' });
const NOTHING: readonly unknown[] = Object.freeze([]);

function onMessage(this: WebSocket, data: RawData, isBinary: boolean): void {
  (this as unknown as SessionSocket).session?.receive(data, isBinary);
}

function onError(this: WebSocket): void {
  (this as unknown as SessionSocket).session?.end('transport error');
}

function onClose(this: WebSocket): void {
  (this as unknown as SessionSocket).session?.end('transport close');
}
