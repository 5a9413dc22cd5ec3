import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import * as ws from 'ws';
import { type ServerOptions, WebSocket, WebSocketServer } from 'ws';
import { chooseProtocol } from '../door/subprotocols.js';
import { textFrame } from './frame.js';
import type { Meter } from './meter.js';
import { refuseWrongHandshakes } from './wrong-handshakes.js';

/** What this file uses of the part of `ws` that reads frames. */
interface Receiver {
  _state: number;
  _bufferedBytes: number;
  _buffers: Buffer[];
  /** Reads the head of the next frame. */
  getInfo(done: Done): void;
  /** Reads frames until it needs more bytes, or until its state says that it has to wait. */
  startLoop(done: Done): void;
}

type Done = (error?: Error) => void;
type Sent = Parameters<WebSocket['send']>[0];
type SendOptions = Parameters<WebSocket['send']>[1] & object;
type Sending = (error?: Error) => void;
type UpgradeDone<Socket> = (socket: Socket, request: IncomingMessage) => void;

interface MeteredReceiver extends Receiver {
  socket: MeteredSocket | undefined;
  /** The next frame may be read: it was asked for. */
  granted: boolean;
  /** Continues with the frame that waits. */
  parked: (() => void) | undefined;
}

/** How long a connection that was closed has to confirm it, in milliseconds. */
export const CLOSE_MS = 5_000;
/** The same for a client that reads slowly and has much to read before. */
export const SLOW_CLOSE_MS = 30_000;

/** States of a receiver, as `ws` has them. */
const GET_INFO = 0;
/** It waits, as it does for `allowSynchronousEvents: false`: it reads no frame, and takes no more bytes than it has. */
const WAITING = 6;
const MIN_HEAD_BYTES = 2;
/** Longer texts, in UTF-16 units, are not copied once more to save a piece. */
const MAX_ONE_PIECE = 1_024;

/**
 * A WebSocket of which each frame is asked for before it is read: text and binary, pings and pongs, and every piece of a
 * message that comes in pieces. While a frame has to wait, `ws` takes no bytes and pauses the socket. Frames that came in
 * the same read wait too, so that a thousand small ones count as a thousand.
 */
export class MeteredSocket extends WebSocket {
  /** Replaced when a session moves to another socket. */
  meter: Meter | undefined;
  private stream: Duplex | undefined;

  /** Called by `ws` when the upgrade is done. */
  setSocket(socket: Duplex, head: Buffer, options: unknown): void {
    inherited.setSocket.call(this, socket, head, options);
    this.stream = socket;
    const receiver = (this as unknown as { _receiver: MeteredReceiver })._receiver;
    receiver.socket = this;
    receiver.granted = false;
    receiver.parked = undefined;
    receiver.getInfo = getInfo;
    // Added after the listener of `ws`, which waits until all received bytes are read.
    socket.on('close', () => forget(receiver));
  }

  /** Writes a short text in one piece: `ws` hands the head of its frame and the text to the socket apart. */
  override send(data: Sent, options?: SendOptions | Sending, done?: Sending): void {
    if (typeof data === 'string' && data.length <= MAX_ONE_PIECE && this.readyState === WebSocket.OPEN) {
      this.stream?.write(textFrame(Buffer.from(data)), (typeof options === 'function' ? options : done) as never);
    } else {
      inherited.send.call(this, data, options, done);
    }
  }
}

function getInfo(this: MeteredReceiver, done: Done): void {
  const meter = this.socket?.meter;
  if (this.socket === undefined) {
    this._buffers = [];
    this._bufferedBytes = 0;
  } else if (this._bufferedBytes >= MIN_HEAD_BYTES && meter !== undefined && !this.granted) {
    const granted = (): void => {
      this.granted = true;
      this.parked?.();
    };
    if (!meter.ask(granted)) {
      this._state = WAITING;
      this.parked = () => {
        this.parked = undefined;
        this._state = GET_INFO;
        this.startLoop(done);
      };
      return;
    }
  }
  this.granted = false;
  original.getInfo.call(this, done);
}

/** The connection is gone. The rest of what it sent is dropped, since `ws` waits for it to be read. */
function forget(receiver: MeteredReceiver): void {
  receiver.socket?.meter?.stop();
  receiver.socket = undefined;
  receiver.parked?.();
}

const inherited = WebSocket.prototype as unknown as Pick<MeteredSocket, 'setSocket' | 'send'>;
const original = (ws as unknown as { Receiver: { prototype: Receiver } }).Receiver.prototype;

/** A server of metered WebSockets. */
export function meteredServer(meter: () => Meter): new (options: ServerOptions) => WebSocketServer {
  class Socket extends MeteredSocket {
    override meter: Meter | undefined = meter();
  }
  return class extends WebSocketServer<typeof Socket> {
    constructor(options: ServerOptions) {
      const ours = { closeTimeout: SLOW_CLOSE_MS, handleProtocols: chooseProtocol };
      super({ ...ours, ...options, WebSocket: Socket } as ServerOptions<typeof Socket>);
      refuseWrongHandshakes(this as unknown as WebSocketServer);
    }

    /** The answer to an upgrade, and what is said first to a session, are one write. */
    override handleUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer, done: UpgradeDone<Socket>): void {
      socket.cork();
      setImmediate(() => socket.uncork());
      super.handleUpgrade(request, socket, head, done);
    }
  } as unknown as new (
    options: ServerOptions,
  ) => WebSocketServer;
}
