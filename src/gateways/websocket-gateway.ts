import type { IncomingMessage, Server } from 'node:http';
import type { Duplex } from 'node:stream';
import { type RawData, WebSocket, WebSocketServer } from 'ws';
import type { Admit } from '../door/door.js';
import { chooseProtocol } from '../door/subprotocols.js';
import type { Outgoing } from '../hub/connection.js';
import { authenticated } from '../hub/credential-life.js';
import type { Success } from '../hub/reply.js';
import { binaryMessage, type ClientMessage, readClientMessage } from '../protocol/client-message.js';
import { type ErrorCode, errorEntry, TaskwireError, toTaskwireError } from '../protocol/errors.js';
import { controlText, errorText } from '../protocol/messages.js';
import { ENGINE_PATH, NAMESPACE } from '../protocol/paths.js';
import type { Identity } from '../protocol/tasks.js';
import type { Connections, GatewayConnection, Place } from './connections.js';
import { FirstMessages } from './first-messages.js';
import { plainFrame } from './frame.js';
import type { FrameChain, FrameSink, FrameWriter } from './frame-writer.js';
import { CONFIRM, unsentBytes } from './unsent.js';

export interface WebsocketGatewayOptions {
  readonly server: Server;
  readonly connections: Connections;
  readonly admit: Admit;
  readonly writer: FrameWriter;
  readonly limits: {
    readonly MAX_MESSAGE_BYTES: number;
    readonly MAX_BUFFERED_BYTES: number;
    readonly PING_INTERVAL_MS: number;
    readonly PING_TIMEOUT_MS: number;
    readonly DIRECT_FRAMES: boolean;
    readonly AUTH_TIMEOUT_MS: number;
  };
  /** Told when a connection opens and when it ends; ids are unique within this process. */
  readonly onOpen?: ((id: string) => void) | undefined;
  readonly onClose?: ((id: string) => void) | undefined;
}

export interface Gateway {
  /** Ends timers; connections are ended by the registry. */
  stop(): void;
}

/** How long a connection that was closed has to confirm it, in milliseconds; and one that has much to read before. */
const CLOSE_MS = 5_000;
const SLOW_CLOSE_MS = 30_000;
const NOT_FOUND = notFound();

const ENGINE_HERE =
  `Plain WebSockets are served here. With socket.io-client leave the option "path" out and connect to ` +
  `io("http://host:port${NAMESPACE}")`;

/** Whether a Socket.IO client takes this path for that of its transport. */
const isEngineRequest = ({ url = '' }: IncomingMessage): boolean => /[?&]EIO=\d/.test(url);

/** A WebSocket that knows its connection, so that one set of handlers serves all. */
class TaskSocket extends WebSocket {
  connection: PlainConnection | undefined;
}

/** Plain WebSockets at `/api/ws/tasks`: messages are JSON text. */
export function createWebsocketGateway(options: WebsocketGatewayOptions): Gateway {
  const { server, connections, admit, limits } = options;
  const sockets = new WebSocketServer<typeof TaskSocket>({
    noServer: true,
    clientTracking: false,
    maxPayload: limits.MAX_MESSAGE_BYTES,
    perMessageDeflate: false,
    WebSocket: TaskSocket,
    closeTimeout: SLOW_CLOSE_MS,
    handleProtocols: chooseProtocol,
  } as ConstructorParameters<typeof WebSocketServer>[0] & { WebSocket: typeof TaskSocket });
  const heartbeat = new Heartbeat(limits.PING_INTERVAL_MS, limits.PING_TIMEOUT_MS);
  let lastId = 0;

  const enter = async (ws: TaskSocket, socket: Duplex, request: IncomingMessage): Promise<void> => {
    ws.on('error', onError);
    // Nothing is read before it is known whose it is; what the client sends meanwhile stays in the socket.
    ws.pause();
    const first = new FirstMessages(ws, limits.AUTH_TIMEOUT_MS);
    try {
      if (isEngineRequest(request)) {
        throw new TaskwireError('INVALID_REQUEST', { message: ENGINE_HERE });
      }
      if (connections.draining) {
        throw new TaskwireError('SERVER_DRAINING');
      }
      const admission = await admit({ request, ask: () => first.auth() });
      if (connections.draining || ws.readyState !== WebSocket.OPEN) {
        admission.release();
        throw new TaskwireError('SERVER_DRAINING');
      }
      lastId += 1;
      const connection = new PlainConnection(`p${process.pid}.${lastId}`, admission.identity, ws, socket, options);
      connection.place = connections.enter(connection, admission);
      ws.connection = connection;
      heartbeat.add(connection);
      options.onOpen?.(connection.id);
      ws.on('message', onMessage);
      ws.on('ping', onHeard);
      ws.on('pong', onPong);
      ws.once('close', onClose);
      const [auth, ...others] = first.take() ?? [];
      if (auth !== undefined) {
        connection.answer(authenticated(admission.identity), auth.requestId);
        for (const message of others) {
          connection.handle(message);
        }
      }
    } catch (error) {
      const { body } = toTaskwireError(error);
      ws.send(errorText(body, first.requestId));
      ws.close(errorEntry(body.code).close ?? errorEntry('INTERNAL_ERROR').close, body.code);
    }
    ws.resume();
  };

  function onClose(this: WebSocket): void {
    const { connection } = this as TaskSocket;
    if (connection !== undefined) {
      heartbeat.delete(connection);
      connection.place?.leave();
      options.onClose?.(connection.id);
    }
  }

  server.on('upgrade', (request, socket, head) => {
    const path = (request.url ?? '').split('?', 1)[0]!.replace(/\/$/, '');
    if (path === NAMESPACE) {
      sockets.handleUpgrade(request, socket, head, (ws) => void enter(ws, socket, request));
    } else if (!request.url?.startsWith(ENGINE_PATH)) {
      // Nobody else takes it, and nobody else hears of its errors.
      socket.on('error', () => {});
      socket.end(NOT_FOUND, () => socket.destroy());
    }
  });

  return { stop: () => heartbeat.stop() };
}

function notFound(): string {
  const message = `WebSockets are served at ${NAMESPACE}; Socket.IO at ${ENGINE_PATH}, its namespace is ${NAMESPACE}`;
  const body = JSON.stringify({ error: new TaskwireError('NOT_FOUND', { message }).body });
  return [
    'HTTP/1.1 404 Not Found',
    'Content-Type: application/json; charset=utf-8',
    `Content-Length: ${Buffer.byteLength(body)}`,
    'Connection: close',
    '',
    body,
  ].join('\r\n');
}

function onError(): void {
  // A close follows, and that is handled.
}

function onMessage(this: WebSocket, data: RawData, isBinary: boolean): void {
  (this as TaskSocket).connection?.receive(data, isBinary);
}

function onHeard(this: WebSocket): void {
  (this as TaskSocket).connection?.heard();
}

function onPong(this: WebSocket, data: Buffer): void {
  (this as TaskSocket).connection?.answered(data);
}

class PlainConnection implements GatewayConnection, FrameSink {
  readonly transport = 'websocket';
  pending: FrameChain | undefined;
  place: Place | undefined;
  heardAt = performance.now();
  pingedAt = 0;
  /** Bytes that were written although too much waited. */
  private excess = 0;
  private confirming: (() => void) | undefined;

  constructor(
    readonly id: string,
    public identity: Identity,
    private readonly ws: WebSocket,
    private readonly socket: Duplex,
    private readonly options: WebsocketGatewayOptions,
  ) {}

  get backlog(): number {
    return this.socket.writableLength + (this.pending?.length ?? 0);
  }

  get unsent(): number {
    return unsentBytes(this.socket) + (this.pending?.length ?? 0);
  }

  deliver(message: Outgoing): void {
    if (this.ws.readyState !== WebSocket.OPEN) {
      return;
    }
    if (this.options.limits.DIRECT_FRAMES) {
      this.options.writer.add(this, plainFrame(message));
    } else if (this.admits(message.payload.length)) {
      this.ws.send(message.payload, { binary: false });
      this.watch();
    }
  }

  writeFrames(bytes: Buffer): void {
    if (this.ws.readyState === WebSocket.OPEN && this.admits(bytes.length)) {
      this.socket.write(bytes);
      this.watch();
    }
  }

  close(code: ErrorCode): void {
    const { close = errorEntry('INTERNAL_ERROR').close } = errorEntry(code);
    if (this.ws.readyState === WebSocket.OPEN) {
      this.options.writer.flush(this);
    }
    this.ws.close(close, code);
    if (code !== 'SLOW_CONSUMER') {
      setTimeout(() => this.terminate(), CLOSE_MS).unref();
    }
  }

  terminate(): void {
    this.ws.terminate();
  }

  confirm(done: () => void): void {
    this.confirming = done;
    if (this.ws.readyState === WebSocket.OPEN) {
      this.options.writer.flush(this);
      this.ws.ping(CONFIRM);
    }
  }

  /** A pong has come: to the heartbeat, or to `confirm`. */
  answered(data: Buffer): void {
    this.heard();
    if (data.toString('latin1') === CONFIRM) {
      const { confirming } = this;
      this.confirming = undefined;
      confirming?.();
    }
  }

  heard(): void {
    this.heardAt = performance.now();
    this.pingedAt = 0;
  }

  ping(): void {
    this.pingedAt = performance.now();
    if (this.ws.readyState === WebSocket.OPEN) {
      this.ws.ping();
    }
  }

  receive(data: RawData, isBinary: boolean): void {
    this.heard();
    this.handle(isBinary ? binaryMessage() : readClientMessage(String(data)));
  }

  handle(message: ClientMessage): void {
    if (message.error !== undefined) {
      this.answer(message.error, message.requestId);
    } else {
      this.place?.session.handle(message.type, message.data, (outcome) => this.answer(outcome, message.requestId));
    }
  }

  answer(outcome: Success | TaskwireError, requestId: string | undefined): void {
    const [type, text] =
      outcome instanceof TaskwireError
        ? (['ERROR', errorText(outcome.body, requestId)] as const)
        : ([outcome.type, successText(outcome, requestId)] as const);
    this.deliver({ type, payload: Buffer.from(text) });
  }

  /** Whether something more may be written. The hub sends nothing of rooms while too much waits: only answers come then. */
  private admits(bytes: number): boolean {
    const { MAX_BUFFERED_BYTES } = this.options.limits;
    if (this.socket.writableLength <= MAX_BUFFERED_BYTES) {
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
    if (this.socket.writableLength > this.options.limits.MAX_BUFFERED_BYTES) {
      this.place?.session.fallBehind();
    }
  }
}

function successText({ type, message, data }: Success, requestId: string | undefined): string {
  return controlText(type, message === undefined ? data : { message, data }, { requestId });
}

/** Pings connections that have been silent, and ends those that stay so: one timer for all. */
class Heartbeat {
  private readonly connections = new Set<PlainConnection>();
  private readonly timer: NodeJS.Timeout;

  constructor(
    private readonly intervalMs: number,
    private readonly timeoutMs: number,
  ) {
    this.timer = setInterval(() => this.beat(), Math.min(1_000, intervalMs, timeoutMs)).unref();
  }

  add(connection: PlainConnection): void {
    // Those that came together need not be pinged together.
    connection.heardAt -= Math.random() * (this.intervalMs / 2);
    this.connections.add(connection);
  }

  delete(connection: PlainConnection): void {
    this.connections.delete(connection);
  }

  stop(): void {
    clearInterval(this.timer);
  }

  private beat(): void {
    const now = performance.now();
    for (const connection of this.connections) {
      if (connection.pingedAt > 0) {
        if (now - connection.pingedAt >= this.timeoutMs) {
          connection.terminate();
        }
      } else if (now - connection.heardAt >= this.intervalMs) {
        connection.ping();
      }
    }
  }
}
