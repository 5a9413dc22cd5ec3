import { type Server as HttpServer, ServerResponse } from 'node:http';
import type { Writable } from 'node:stream';
import { Server, type Socket } from 'socket.io';
import type { Admission, Admit } from '../door/door.js';
import type { Outgoing } from '../hub/connection.js';
import type { Success } from '../hub/reply.js';
import { type ErrorCode, errorEntry, TaskwireError, toTaskwireError } from '../protocol/errors.js';
import { controlText, errorText } from '../protocol/messages.js';
import { ENGINE_PATH, NAMESPACE } from '../protocol/paths.js';
import type { Identity } from '../protocol/tasks.js';
import type { Connections, GatewayConnection, Place } from './connections.js';
import { socketioFrame, socketioPacket } from './frame.js';
import type { FrameChain, FrameSink, FrameWriter } from './frame-writer.js';
import { CONFIRM, unsentBytes } from './unsent.js';

export interface SocketioGatewayOptions {
  readonly server: HttpServer;
  /** As the broker gives it. */
  readonly adapter: unknown;
  readonly connections: Connections;
  readonly admit: Admit;
  readonly writer: FrameWriter;
  readonly limits: {
    readonly MAX_MESSAGE_BYTES: number;
    readonly MAX_BUFFERED_BYTES: number;
    readonly PING_INTERVAL_MS: number;
    readonly PING_TIMEOUT_MS: number;
    readonly DIRECT_FRAMES: boolean;
  };
}

/** How long a client may be connected without being in the namespace, in milliseconds. */
const CONNECT_MS = 10_000;
/** How long a connection that was closed has to confirm it, in milliseconds; and one that has much to read before. */
const CLOSE_MS = 5_000;
const SLOW_CLOSE_MS = 30_000;

/** What a handshake leaves behind, when nobody asks for it any more. */
const NO_HANDSHAKE = Object.freeze({ headers: {}, query: {}, auth: {} });

/** What this file uses of an Engine.IO connection. */
interface EngineConnection {
  readonly id: string;
  readonly readyState: 'opening' | 'open' | 'closing' | 'closed';
  readonly upgrading: boolean;
  readonly writeBuffer: readonly unknown[];
  readonly transport: {
    readonly name: string;
    /** The `ws` socket of a WebSocket transport. */
    readonly socket?: WsSocket;
  };
  request: unknown;
  write(packet: string, options: { compress: boolean }): void;
  close(discard?: boolean): void;
  /** It has ended, or a packet came. */
  on(event: 'close' | 'packet', listener: () => void): void;
  /** A packet is about to join the queue. */
  on(event: 'packetCreate', listener: (packet: { data?: unknown }) => void): void;
}

interface WsSocket {
  readonly readyState: number;
  readonly _socket: Writable | null;
  on(event: 'pong', listener: (data: Buffer) => void): void;
  off(event: 'pong', listener: (data: Buffer) => void): void;
  ping(data: string): void;
  close(code?: number, reason?: string): void;
  terminate(): void;
}

const WS_OPEN = 1;

/** Packets that may wait for a client that goes on talking. */
const MAX_WAITING_PACKETS = 4_096;
/** How a CONNECT_ERROR of Socket.IO begins. */
const REFUSAL = '4';
/** What Socket.IO says to whoever asks for a namespace that it does not have, and what it says here instead. */
const NO_NAMESPACE = '{"message":"Invalid namespace"}';
const OTHER_NAMESPACE = `The namespace is ${NAMESPACE}: connect with io("http://host:port${NAMESPACE}")`;
const NO_NAMESPACE_HERE = JSON.stringify({
  message: OTHER_NAMESPACE,
  data: new TaskwireError('INVALID_REQUEST', { message: OTHER_NAMESPACE }).body,
});
/** About the bytes of an acknowledgement, and of each room in it. */
const ACK_BYTES = 200;
const ACK_ROOM_BYTES = 250;

const EXTRA_ARGUMENTS =
  'An event takes one argument, the data, as in emit("SUBSCRIBE", { room: "job:123" }), and an acknowledgement';

type Ack = (answer: unknown) => void;

interface SocketData {
  connection?: SocketioConnection;
}

type TaskSocket = Socket<Record<string, never>, Record<string, never>, Record<string, never>, SocketData>;

/** Socket.IO with one namespace. Rooms are the hub's: one room store serves both transports. */
export function createSocketioGateway(options: SocketioGatewayOptions): Server {
  const { server, adapter, connections, admit, limits } = options;
  const io = new Server(server, {
    path: ENGINE_PATH,
    adapter: adapter as never,
    serveClient: false,
    // The server's other paths are upgraded by others.
    destroyUpgrade: false,
    connectTimeout: CONNECT_MS,
    // A polling request may carry several messages and the packets around them.
    maxHttpBufferSize: limits.MAX_MESSAGE_BYTES + 1_024,
    pingInterval: limits.PING_INTERVAL_MS,
    pingTimeout: limits.PING_TIMEOUT_MS,
    perMessageDeflate: false,
    httpCompression: false,
    // Whoever may not come is told so by the door, which a page can only read where CORS lets it.
    cors: { origin: true, credentials: true },
    // A script of any page may poll by JSONP, past CORS and past the check of its origin.
    allowRequest: (request, decide) => {
      const jsonp = new URLSearchParams((request.url ?? '').split('?')[1]).has('j');
      decide(jsonp ? 'JSONP is switched off; poll with XMLHttpRequest or fetch' : null, !jsonp);
    },
  });

  io.engine.use(releaseUpgrade);
  /** Bytes of refusals given to Engine.IO since its queue was last empty. They repeat what the client called the namespace. */
  const refusals = new WeakMap<EngineConnection, number>();

  function onRefusal(this: EngineConnection, packet: { data?: unknown }): void {
    if (typeof packet.data === 'string' && packet.data.startsWith(REFUSAL)) {
      packet.data = withReason(packet.data);
      const before = this.writeBuffer.length === 0 ? 0 : (refusals.get(this) ?? 0);
      refusals.set(this, before + Buffer.byteLength(packet.data as string));
    }
  }

  /** Engine.IO and Socket.IO answer many a packet by themselves: a client that reads nothing of it is cut off. */
  function boundAnswers(this: EngineConnection): void {
    const waiting = this.writeBuffer.length;
    if (waiting === 0) {
      refusals.delete(this);
    } else if (waiting > MAX_WAITING_PACKETS || (refusals.get(this) ?? 0) > limits.MAX_BUFFERED_BYTES) {
      cutOff(this);
    }
  }

  /** Connections that were let in, or whose key is being looked up. */
  const entering = new WeakMap<EngineConnection, SocketioConnection | undefined>();

  function onClose(this: EngineConnection): void {
    entering.get(this)?.end();
  }

  // One listener of each kind serves all connections.
  io.engine.on('connection', (engine: EngineConnection) => {
    engine.on('packetCreate', onRefusal);
    engine.on('packet', boundAnswers);
    engine.on('close', onClose);
  });
  io.use((_socket, next) => next(refusal(new TaskwireError('INVALID_REQUEST', { message: OTHER_NAMESPACE }))));

  const namespace = io.of(NAMESPACE);
  namespace.use((socket, next) => {
    const engine = socket.conn as unknown as EngineConnection;
    if (entering.has(engine)) {
      // Each would be a look-up of its own key. Socket.IO ends a connection that asks again when it is in; so does this
      // while it is asked for.
      cutOff(engine);
      next(refusal(new TaskwireError('INVALID_REQUEST')));
      return;
    }
    entering.set(engine, undefined);
    enter(socket as unknown as TaskSocket).then(
      () => next(),
      (error) => {
        const refused = toTaskwireError(error);
        if (refused.code === 'SERVER_DRAINING') {
          // A client that is refused does not come back by itself; one whose transport was closed does. There is nothing
          // that it would have to fetch first.
          engine.close(true);
        } else {
          // Socket.IO sends the refusal at the end of this turn; without the namespace nothing else follows.
          setImmediate(() => closeEngine(engine));
        }
        // On a closed connection too: Socket.IO keeps the socket until it is told.
        next(refusal(refused));
      },
    );
  });

  async function enter(socket: TaskSocket): Promise<void> {
    if (connections.draining) {
      throw new TaskwireError('SERVER_DRAINING');
    }
    const engine = socket.conn as unknown as EngineConnection;
    const admission = await admit({ request: socket.request, auth: socket.handshake.auth });
    if (connections.draining || engine.readyState !== 'open') {
      admission.release();
      throw new TaskwireError('SERVER_DRAINING');
    }
    const connection = new SocketioConnection(socket, engine, admission, options);
    // From here on the end of the connection gives everything back, whether it gets into the namespace or not.
    entering.set(engine, connection);
    socket.data.connection = connection;
  }

  namespace.on('connection', (socket) => {
    const { connection } = socket.data as SocketData;
    connection?.begin();
    socket.onAny(onMessage as never);
    socket.on('disconnect', onDisconnect);
    forgetHandshake(socket);
  });
  return io;
}

/** A refusal with something to do in it: Socket.IO's own for an unknown namespace has neither a code nor a way out. */
const withReason = (packet: string): string =>
  packet.endsWith(NO_NAMESPACE) ? `${packet.slice(0, -NO_NAMESPACE.length)}${NO_NAMESPACE_HERE}` : packet;

/** Closes a connection when what waits is sent, or after a while. */
function closeEngine(engine: EngineConnection): void {
  engine.close();
  setTimeout(() => cutOff(engine), CLOSE_MS).unref();
}

function cutOff(engine: EngineConnection): void {
  if (engine.readyState !== 'closed') {
    engine.transport.socket?.terminate();
    engine.close(true);
  }
}

function onMessage(this: TaskSocket, type: string, ...args: unknown[]): void {
  const ack = typeof args.at(-1) === 'function' ? (args.pop() as Ack) : undefined;
  this.data.connection?.receive(type, args, ack);
}

function onDisconnect(this: Socket): void {
  (this.data as SocketData).connection?.end();
  // Without a namespace it would stay, and count for nobody.
  this.conn.close();
}

/** Lets go of the request with its headers, and of the copies that Socket.IO keeps: kilobytes a connection. */
function forgetHandshake(socket: Socket): void {
  (socket.conn as unknown as EngineConnection).request = undefined;
  Object.assign(socket, { handshake: NO_HANDSHAKE });
}

/**
 * Engine.IO's stand-in for the response to an upgrade lives as long as the socket, and with it the request with its headers:
 * more kilobytes a connection. It is asked for the request by middleware that sets headers, of which this is the last.
 */
function releaseUpgrade(_request: unknown, response: { req?: unknown }, next: () => void): void {
  if (!(response instanceof ServerResponse)) {
    delete response.req;
  }
  next();
}

function refusal(error: TaskwireError): Error {
  return Object.assign(new Error(error.message), { data: error.body });
}

class SocketioConnection implements GatewayConnection, FrameSink {
  readonly transport = 'socket.io';
  readonly id: string;
  identity: Identity;
  pending: FrameChain | undefined;
  private place: Place | undefined;
  private admission: Admission | undefined;
  /** Bytes given to Engine.IO since its queue was last empty. */
  private queued = 0;
  /** Bytes that were written although too much waited. */
  private excess = 0;
  private closing = false;

  constructor(
    private readonly socket: TaskSocket,
    private readonly engine: EngineConnection,
    admission: Admission,
    private readonly options: SocketioGatewayOptions,
  ) {
    this.id = socket.id;
    this.identity = admission.identity;
    this.admission = admission;
  }

  begin(): void {
    if (this.admission !== undefined) {
      this.place = this.options.connections.enter(this, this.admission);
      this.admission = undefined;
    }
  }

  end(): void {
    this.closing = true;
    this.place?.leave();
    this.admission?.release();
    this.admission = undefined;
  }

  get backlog(): number {
    if (this.engine.writeBuffer.length === 0) {
      this.queued = 0;
    }
    return (this.rawSocket?.writableLength ?? 0) + this.queued + (this.pending?.length ?? 0);
  }

  get unsent(): number {
    const { rawSocket } = this;
    return (rawSocket === undefined ? 0 : unsentBytes(rawSocket)) + this.queued + (this.pending?.length ?? 0);
  }

  deliver(message: Outgoing): void {
    if (this.closing) {
      return;
    }
    if (this.direct) {
      this.options.writer.add(this, socketioFrame(message));
      return;
    }
    this.options.writer.flush(this);
    const packet = socketioPacket(message);
    if (this.admits(packet.length)) {
      this.queued += packet.length;
      this.engine.write(packet, { compress: false });
      this.watch();
    }
  }

  writeFrames(bytes: Buffer): void {
    const { rawSocket } = this;
    if (rawSocket !== undefined && this.admits(bytes.length)) {
      rawSocket.write(bytes);
      this.watch();
    }
  }

  close(code: ErrorCode): void {
    if (this.closing) {
      return;
    }
    const { close, retry } = errorEntry(code);
    this.options.writer.flush(this);
    if (this.closing) {
      // What was to be written was too much.
      return;
    }
    if (retry === 'never') {
      // A client that is disconnected by the server does not come back by itself.
      this.send('ERROR', errorText(new TaskwireError(code).body));
      this.options.writer.flush(this);
      this.closing = true;
      this.socket.disconnect(true);
    } else {
      if (code === 'TOKEN_EXPIRED') {
        // The end of the transport alone would not say that another token is wanted.
        this.send('ERROR', errorText(new TaskwireError(code).body));
        this.options.writer.flush(this);
      }
      this.closing = true;
      const ws = this.engine.transport.socket;
      if (code === 'SLOW_CONSUMER' && ws !== undefined) {
        // Engine.IO would wait for its queue, which does not move.
        ws.close(close, code);
      } else {
        this.engine.close();
      }
    }
    setTimeout(() => this.terminate(), code === 'SLOW_CONSUMER' ? SLOW_CLOSE_MS : CLOSE_MS).unref();
  }

  confirm(done: () => void): void {
    this.options.writer.flush(this);
    const ws = this.engine.transport.socket;
    if (ws === undefined || this.engine.upgrading) {
      // A poll is asked for when the one before has arrived.
      setImmediate(done);
      return;
    }
    const onPong = (data: Buffer): void => {
      if (data.toString('latin1') === CONFIRM) {
        ws.off('pong', onPong);
        done();
      }
    };
    ws.on('pong', onPong);
    ws.ping(CONFIRM);
  }

  terminate(): void {
    this.closing = true;
    cutOff(this.engine);
  }

  receive(type: string, args: readonly unknown[], ack: Ack | undefined): void {
    const answer = (outcome: Success | TaskwireError): void => {
      if (ack !== undefined) {
        // What was delivered before comes first.
        this.options.writer.flush(this);
        if (this.admits(ackBytes(outcome))) {
          this.queued += ackBytes(outcome);
          ack(outcome instanceof TaskwireError ? { error: outcome.body } : outcome.data);
        }
      } else if (outcome instanceof TaskwireError) {
        this.send('ERROR', errorText(outcome.body));
      } else {
        this.send(outcome.type, envelopeOf(outcome));
      }
    };
    if (args.length > 1) {
      answer(new TaskwireError('INVALID_MESSAGE', { message: EXTRA_ARGUMENTS }));
    } else {
      this.place?.session.handle(type, args[0], answer);
    }
  }

  private send(type: Outgoing['type'], text: string): void {
    this.deliver({ type, payload: Buffer.from(text) });
  }

  /** Whether a frame written to the socket keeps its place among what Engine.IO has written and will write. */
  private get direct(): boolean {
    const { engine } = this;
    return (
      this.options.limits.DIRECT_FRAMES &&
      engine.readyState === 'open' &&
      engine.transport.name === 'websocket' &&
      !engine.upgrading &&
      engine.writeBuffer.length === 0 &&
      this.rawSocket !== undefined
    );
  }

  private get rawSocket(): Writable | undefined {
    const ws = this.engine.transport.socket;
    return ws?.readyState === WS_OPEN ? (ws._socket ?? undefined) : undefined;
  }

  /** Whether something more may be written. The hub sends nothing of rooms while too much waits: only answers come then. */
  private admits(bytes: number): boolean {
    const { MAX_BUFFERED_BYTES } = this.options.limits;
    if (this.backlog <= MAX_BUFFERED_BYTES) {
      this.excess = 0;
      return true;
    }
    this.excess += bytes;
    if (this.excess <= MAX_BUFFERED_BYTES) {
      return true;
    }
    this.close('SLOW_CONSUMER');
    return false;
  }

  /** When more waits than may, what comes next waits in the hub. */
  private watch(): void {
    if (this.backlog > this.options.limits.MAX_BUFFERED_BYTES) {
      this.place?.session.fallBehind();
    }
  }
}

function ackBytes(outcome: Success | TaskwireError): number {
  const { rooms, positions } = (outcome instanceof TaskwireError ? {} : outcome.data) as Record<string, unknown>;
  const list = rooms ?? positions;
  return ACK_BYTES + (Array.isArray(list) ? list.length * ACK_ROOM_BYTES : 0);
}

const envelopeOf = ({ type, message, data }: Success): string =>
  controlText(type, message === undefined ? data : { message, data });
