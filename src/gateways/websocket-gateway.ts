import type { IncomingMessage, Server } from 'node:http';
import type { Duplex } from 'node:stream';
import { type RawData, WebSocket, WebSocketServer } from 'ws';
import { CONFIRM, unsentBytes } from '../base/unsent.js';
import type { Approach } from '../door/approach.js';
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
import { type Connections, type GatewayConnection, type Place, PROBE_MS } from './connections.js';
import { costOfAnswer, costOfMessage, costOfRooms } from './cost.js';
import { FirstMessages } from './first-messages.js';
import { plainFrame } from './frame.js';
import type { FrameChain, FrameSink, FrameWriter } from './frame-writer.js';
import { type Meter, type MeterListener, type Meters, tooMuch } from './meter.js';
import { CLOSE_MS, MeteredSocket, SLOW_CLOSE_MS } from './metered-socket.js';
import { refuseUpgrade } from './upgrade.js';

export interface WebsocketGatewayOptions {
  readonly server: Server;
  readonly connections: Connections;
  readonly approach: Pick<Approach, 'check' | 'wait'>;
  readonly admit: Admit;
  readonly writer: FrameWriter;
  readonly meters: Meters;
  readonly limits: {
    readonly MAX_ROOMS_PER_CONNECTION: number;
    readonly MAX_MESSAGE_BYTES: number;
    readonly MAX_BUFFERED_BYTES: number;
    readonly PING_INTERVAL_MS: number;
    readonly PING_TIMEOUT_MS: number;
    readonly DIRECT_FRAMES: boolean;
    readonly AUTH_TIMEOUT_MS: number;
  };
}

export interface Gateway {
  /** Ends timers; connections are ended by the registry. */
  stop(): void;
}

const NO_SOCKET_HERE = `WebSockets are served at ${NAMESPACE}; Socket.IO at ${ENGINE_PATH}, its namespace is ${NAMESPACE}`;

const ENGINE_HERE =
  `Plain WebSockets are served here. With socket.io-client leave the option "path" out and connect to ` +
  `io("http://host:port${NAMESPACE}")`;

/** Whether a Socket.IO client takes this path for that of its transport. */
const isEngineRequest = ({ url = '' }: IncomingMessage): boolean => /[?&]EIO=\d/.test(url);

/** A WebSocket that knows its connection, so that one set of handlers serves all. */
class ConnectedSocket extends MeteredSocket {
  connection: PlainConnection | undefined;
}

/** Plain WebSockets at `/api/ws/tasks`: messages are JSON text. */
export function createWebsocketGateway(options: WebsocketGatewayOptions): Gateway {
  const { server, connections, approach, admit, meters, limits } = options;
  class TaskSocket extends ConnectedSocket {
    override meter: Meter | undefined = meters.stranger();
  }
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
    const leave = approach.wait(request, () => ws.terminate());
    ws.once('close', leave);
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
      meters.admit(connection.meter, admission.identity);
      connection.place = connections.enter(connection, admission);
      ws.connection = connection;
      heartbeat.add(connection);
      ws.on('message', onMessage);
      ws.on('ping', onHeard);
      ws.on('pong', onPong);
      ws.once('close', onClose);
      ws.off('close', leave);
      leave();
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
    const { connection } = this as ConnectedSocket;
    if (connection !== undefined) {
      heartbeat.delete(connection);
      connection.place?.leave();
    }
  }

  server.on('upgrade', (request, socket, head) => {
    const path = (request.url ?? '').split('?', 1)[0]!.replace(/\/$/, '');
    if (path === NAMESPACE) {
      try {
        approach.check(request);
      } catch (error) {
        refuseUpgrade(socket, toTaskwireError(error));
        return;
      }
      sockets.handleUpgrade(request, socket, head, (ws) => void enter(ws, socket, request));
    } else if (!request.url?.startsWith(ENGINE_PATH)) {
      // Nobody else takes it.
      refuseUpgrade(socket, new TaskwireError('NOT_FOUND', { message: NO_SOCKET_HERE }));
    }
  });

  return { stop: () => heartbeat.stop() };
}

function onError(): void {
  // A close follows, and that is handled.
}

function onMessage(this: WebSocket, data: RawData, isBinary: boolean): void {
  (this as ConnectedSocket).connection?.receive(data, isBinary);
}

function onHeard(this: WebSocket): void {
  (this as ConnectedSocket).connection?.heard();
}

function onPong(this: WebSocket, data: Buffer): void {
  (this as ConnectedSocket).connection?.answered(data);
}

class PlainConnection implements GatewayConnection, FrameSink, MeterListener {
  readonly transport = 'websocket';
  pending: FrameChain | undefined;
  place: Place | undefined;
  heardAt = performance.now();
  pingedAt = 0;
  readonly meter: Meter;
  /** Bytes that were written although too much waited. */
  private excess = 0;
  private confirming: (() => void) | undefined;

  constructor(
    readonly id: string,
    public identity: Identity,
    private readonly ws: MeteredSocket,
    private readonly socket: Duplex,
    private readonly options: WebsocketGatewayOptions,
  ) {
    this.meter = ws.meter!;
    this.meter.listener = this;
  }

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
    this.meter.spend(costOfMessage(message));
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

  probe(): void {
    const asked = performance.now();
    this.ping();
    setTimeout(() => {
      if (this.heardAt < asked) {
        this.terminate();
      }
    }, PROBE_MS).unref();
  }

  receive(data: RawData, isBinary: boolean): void {
    this.heard();
    this.handle(isBinary ? binaryMessage() : readClientMessage(String(data)));
  }

  handle(message: ClientMessage): void {
    if (message.error !== undefined) {
      this.answer(message.error, message.requestId);
    } else {
      this.meter.spend(costOfRooms(message.data, this.options.limits.MAX_ROOMS_PER_CONNECTION));
      this.place?.session.handle(message.type, message.data, (outcome) => {
        this.meter.spend(costOfAnswer(outcome));
        this.answer(outcome, message.requestId);
      });
    }
  }

  onSlowed(retryAfterMs: number): void {
    this.answer(tooMuch(retryAfterMs), undefined);
  }

  onExceeded(): void {
    this.close('RATE_LIMIT_EXCEEDED');
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
