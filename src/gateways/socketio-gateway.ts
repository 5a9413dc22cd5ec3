import type { EventEmitter } from 'node:events';
import { type IncomingMessage, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { Server, type Socket } from 'socket.io';
import type { WebSocketServer } from 'ws';
import { queryOf } from '../door/credentials.js';
import { endWithError } from '../door/error-answer.js';
import { errorEntry, TaskwireError, toTaskwireError } from '../protocol/errors.js';
import { ENGINE_PATH, NAMESPACE } from '../protocol/paths.js';
import { closeEngine, cutOff, type EngineConnection, EngineSession, type EngineSocket } from './engine.js';
import { type EngineTerms, EngineWebsocket } from './engine-websocket.js';
import type { GatewayOptions } from './gateway-options.js';
import { meteredServer } from './metered-socket.js';
import { PingTimer } from './ping-timer.js';
import { type Ack, type SocketData, SocketioConnection, type TaskSocket } from './socketio-connection.js';

export interface SocketioGatewayOptions extends GatewayOptions {
  /** As the broker gives it. */
  readonly adapter: unknown;
}

/**
 * How long a client may be connected without being in a namespace, in milliseconds. The waiting room cuts it off before that, by
 * default; what Socket.IO does is polite, and waits for the client.
 */
const CONNECT_MS = 12_000;
/** Takes the place of a handshake that is no longer needed. */
const NO_HANDSHAKE = Object.freeze({ headers: {}, query: {}, auth: {} });

/** How long a client is held that is refused only for now, in milliseconds: at least, and at most. */
const MIN_PAUSE_MS = 1_000;
const MAX_PAUSE_MS = 4_000;

/** A query that asks for JSONP, by a parameter `j`. */
const JSONP = /[?&](?:j|%6[Aa])(?:[=&]|$)/;
const NO_JSONP = 'JSONP is switched off; poll with XMLHttpRequest or fetch';

/** What this file uses of Engine.IO's server. */
interface EngineServer extends EventEmitter {
  /** Answers upgrades. It is another one when the HTTP server listens again. */
  readonly ws: WebSocketServer;
  readonly middlewares: readonly unknown[];
  readonly clients: Record<string, unknown>;
  clientsCount: number;
  handleUpgrade(request: EngineRequest, socket: Duplex, head: Buffer): void;
  /** It takes its random bytes many at a time. */
  generateId(request: EngineRequest): string;
}

/** An upgrade, with its query as Engine.IO and Socket.IO look for it. */
type EngineRequest = IncomingMessage & { _query?: Query };
type Query = NodeJS.Dict<string>;

/** Most packets that may wait for a client that goes on sending. */
const MAX_WAITING_PACKETS = 4_096;
/** How a CONNECT_ERROR of Socket.IO begins. */
const REFUSAL = '4';
/** Socket.IO's answer to a request for an unknown namespace, and ours instead. */
const NO_NAMESPACE = '{"message":"Invalid namespace"}';
const OTHER_NAMESPACE = `The namespace is ${NAMESPACE}: connect with io("http://host:port${NAMESPACE}")`;
const NO_NAMESPACE_HERE = JSON.stringify({
  message: OTHER_NAMESPACE,
  data: new TaskwireError('INVALID_REQUEST', { message: OTHER_NAMESPACE }).body,
});

/** Socket.IO with one namespace. Rooms are the hub's: one room store serves both transports. */
export function createSocketioGateway(options: SocketioGatewayOptions): Server {
  const { server, adapter, connections, approach, admit, meters, limits } = options;
  const terms: EngineTerms = {
    pingInterval: limits.PING_INTERVAL_MS,
    pingTimeout: limits.PING_TIMEOUT_MS,
    // A polling request may carry several messages and the packets around them.
    maxPayload: limits.MAX_MESSAGE_BYTES + 1_024,
  };
  const io = new Server(server, {
    path: ENGINE_PATH,
    adapter: adapter as never,
    serveClient: false,
    // The server's other paths are upgraded by others.
    destroyUpgrade: false,
    connectTimeout: CONNECT_MS,
    maxHttpBufferSize: terms.maxPayload,
    pingInterval: terms.pingInterval,
    pingTimeout: terms.pingTimeout,
    perMessageDeflate: false,
    httpCompression: false,
    wsEngine: meteredServer(() => meters.stranger()),
    // The door refuses bad origins. CORS is open, so that a page can read that refusal.
    cors: { origin: true, credentials: true },
    // JSONP is off: a page of any origin could use it, past CORS and the check of its origin.
    allowRequest: (request, decide) => {
      const jsonp = JSONP.test(request.url ?? '');
      decide(jsonp ? NO_JSONP : null, !jsonp);
    },
  });

  io.engine.use(checkApproach);
  io.engine.use(releaseUpgrade);
  takeWebsockets();

  /** Takes sessions that begin as a WebSocket past Engine.IO, which costs time and memory only to let them move. */
  function takeWebsockets(): void {
    const engine = io.engine as unknown as EngineServer;
    const takeUpgrade = engine.handleUpgrade.bind(engine);
    const middlewares = engine.middlewares.length;
    const pings = new PingTimer(terms.pingInterval, terms.pingTimeout);

    function onEnd(this: EngineWebsocket): void {
      delete engine.clients[this.id];
      engine.clientsCount -= 1;
    }

    engine.handleUpgrade = (request, socket, head) => {
      const query: Query = Object.fromEntries(queryOf(request));
      const begins = beginsAsWebsocket(query);
      const fault = begins ? undefined : faultOf(query, engine.clients);
      // Middleware of somebody else wants Engine.IO's own way.
      if (fault === undefined && (!begins || engine.middlewares.length !== middlewares)) {
        takeUpgrade(request, socket, head);
        return;
      }
      try {
        approach.check(request);
        if (fault !== undefined) {
          throw new TaskwireError('INVALID_REQUEST', { message: fault });
        }
      } catch (error) {
        endWithError(socket, toTaskwireError(error));
        return;
      }
      request._query = query;
      engine.ws.handleUpgrade(request, socket, head, (ws) => {
        const session = new EngineWebsocket(engine.generateId(request), ws as unknown as EngineSocket, request, pings);
        engine.clients[session.id] = session;
        engine.clientsCount += 1;
        session.on('close', onEnd);
        session.open(terms);
        engine.emit('connection', session);
      });
    };
  }

  /** Sessions that begin, and sockets for those that go on over one. */
  function checkApproach(request: IncomingMessage, response: Response, next: () => void): void {
    const upgrade = !(response instanceof ServerResponse);
    if (upgrade || !isOfSession(request)) {
      try {
        approach.check(request);
      } catch (error) {
        refuse(response, toTaskwireError(error));
        return;
      }
    }
    next();
  }
  /** Bytes of refusals since nothing waited last. They repeat the name of the namespace that the client sent. */
  const refusals = new WeakMap<EngineConnection, number>();

  function onRefusal(this: EngineConnection, packet: { data?: unknown }): void {
    if (typeof packet.data === 'string' && packet.data.startsWith(REFUSAL)) {
      packet.data = withReason(packet.data);
      const before = isRead(this) ? 0 : (refusals.get(this) ?? 0);
      refusals.set(this, before + Buffer.byteLength(packet.data as string));
    }
  }

  /** Engine.IO and Socket.IO answer some packets by themselves. A client that does not read these answers is cut off. */
  function onPacket(this: EngineConnection): void {
    const session = sessions.get(this);
    if (session !== undefined) {
      session.heardAt = performance.now();
    }
    if (isRead(this)) {
      refusals.delete(this);
    } else if (
      this.writeBuffer.length > MAX_WAITING_PACKETS ||
      // In the namespace, answers are bounded by the connection.
      (entering.get(this) === undefined && waitingBytes(this) > limits.MAX_BUFFERED_BYTES) ||
      (refusals.get(this) ?? 0) > limits.MAX_BUFFERED_BYTES
    ) {
      cutOff(this);
    }
  }

  const sessions = new WeakMap<EngineConnection, EngineSession>();
  /** Connections that were let in, or whose key is being looked up. */
  const entering = new WeakMap<EngineConnection, SocketioConnection | undefined>();

  function onClose(this: EngineConnection): void {
    sessions.get(this)?.end();
    entering.get(this)?.end();
  }

  function onUpgrade(this: EngineConnection): void {
    sessions.get(this)?.upgraded();
  }

  // One listener of each kind serves all connections.
  io.engine.on('connection', (engine: EngineConnection) => {
    const leave = approach.wait(engine.request as IncomingMessage, () => cutOff(engine));
    sessions.set(engine, new EngineSession(engine, meters, leave));
    engine.on('packetCreate', onRefusal);
    engine.on('packet', onPacket);
    engine.on('upgrade', onUpgrade);
    engine.on('close', onClose);
  });
  io.use((_socket, next) => next(refusal(new TaskwireError('INVALID_REQUEST', { message: OTHER_NAMESPACE }))));

  const namespace = io.of(NAMESPACE);
  namespace.use((socket, next) => {
    const engine = socket.conn as unknown as EngineConnection;
    if (entering.has(engine)) {
      // A second CONNECT while the first one is checked would be a second look-up. Socket.IO itself ends a connection that
      // sends CONNECT again later.
      cutOff(engine);
      next(refusal(new TaskwireError('INVALID_REQUEST')));
      return;
    }
    entering.set(engine, undefined);
    enter(socket as unknown as TaskSocket).then(
      () => next(),
      (error) => {
        const refused = toTaskwireError(error);
        if (errorEntry(refused.code).retry === 'never') {
          // Socket.IO sends the refusal at the end of this turn; without the namespace nothing else follows.
          setImmediate(() => closeEngine(engine));
          next(refusal(refused));
          return;
        }
        // A client whose CONNECT is refused does not come back by itself; one whose transport was closed does. So the
        // transport is closed. Socket.IO waits for `next`, and sends nothing on a closed connection.
        const timer = setTimeout(() => sessions.get(engine)?.turnAway(refused), pauseBefore(refused));
        whenClosed(engine, () => {
          clearTimeout(timer);
          next(refusal(refused));
        });
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
    const session = sessions.get(engine)!;
    meters.admit(session.meter, admission.identity);
    const connection = new SocketioConnection(socket, engine, admission, session, options);
    // From here on the end of the connection releases everything, also when it never gets into the namespace.
    entering.set(engine, connection);
    socket.data.connection = connection;
  }

  namespace.on('connection', (socket) => {
    const { connection } = socket.data as SocketData;
    connection?.begin();
    sessions.get(socket.conn as unknown as EngineConnection)?.admitted();
    socket.onAny(onMessage as never);
    socket.on('disconnect', onDisconnect);
    forgetHandshake(socket);
  });
  return io;
}

/** Bytes that wait in the socket. */
const waitingBytes = ({ transport }: EngineConnection): number => transport.socket?._socket?.writableLength ?? 0;

/** Whether nothing waits for a client, neither in Engine.IO nor in the socket. */
const isRead = (engine: EngineConnection): boolean => engine.writeBuffer.length === 0 && waitingBytes(engine) === 0;

/** A response, or Engine.IO's stand-in for that to an upgrade. */
type Response = ServerResponse | { readonly socket: Duplex };

/** Whether an upgrade begins a session as a stock client does: in protocol 4, without JSONP or base64. */
const beginsAsWebsocket = ({ EIO, transport, sid, j, b64 }: Query): boolean =>
  EIO === '4' && transport === 'websocket' && (sid ?? j ?? b64) === undefined;

/**
 * What is wrong with an upgrade that begins no session. Engine.IO would say it in a form of its own; and of another protocol only
 * after the upgrade, to a socket that it then destroys, so that nothing arrives.
 */
function faultOf({ EIO, transport, sid, j }: Query, clients: Record<string, unknown>): string | undefined {
  if (transport !== 'websocket') {
    return 'An upgrade is for transport=websocket';
  }
  if (EIO !== '4') {
    return 'Only protocol 4 of Engine.IO is spoken here (EIO=4): use socket.io-client 3 or later';
  }
  if (sid) {
    return Object.hasOwn(clients, sid) ? undefined : 'Session ID unknown';
  }
  return j === undefined ? undefined : NO_JSONP;
}

/** Whether a request names a session, as Engine.IO looks for it: an empty name is none. */
const isOfSession = (request: IncomingMessage): boolean => Boolean((request as EngineRequest)._query?.['sid']);

function refuse(response: Response, error: TaskwireError): void {
  if (!(response instanceof ServerResponse)) {
    endWithError(response.socket, error);
    return;
  }
  const { retryAfterMs } = error.options;
  response
    .writeHead(errorEntry(error.code).status, {
      'Content-Type': 'application/json; charset=utf-8',
      ...(retryAfterMs === undefined ? {} : { 'Retry-After': String(Math.ceil(retryAfterMs / 1_000)) }),
    })
    .end(JSON.stringify({ error: error.body }));
}

/** Gives a refusal a code and a way out: Socket.IO's own answer to an unknown namespace has neither. */
const withReason = (packet: string): string =>
  packet.endsWith(NO_NAMESPACE) ? `${packet.slice(0, -NO_NAMESPACE.length)}${NO_NAMESPACE_HERE}` : packet;

/** How long a client is held that may come back later, in milliseconds. It comes back about a second after that. */
function pauseBefore({ code, options }: TaskwireError): number {
  // A draining worker closes them at once: another worker takes them.
  const wanted = code === 'SERVER_DRAINING' ? 0 : Math.min(options.retryAfterMs ?? MIN_PAUSE_MS, MAX_PAUSE_MS);
  return wanted * (0.5 + Math.random() / 2);
}

function whenClosed(engine: EngineConnection, then: () => void): void {
  if (engine.readyState === 'closed') {
    then();
  } else {
    engine.on('close', then);
  }
}

/** @param type a number too: Socket.IO takes these as names of events */
function onMessage(this: TaskSocket, type: string | number, ...args: unknown[]): void {
  const ack = typeof args.at(-1) === 'function' ? (args.pop() as Ack) : undefined;
  this.data.connection?.receive(String(type), args, ack);
}

function onDisconnect(this: Socket): void {
  (this.data as SocketData).connection?.end();
  // Otherwise the transport would stay open without a namespace, and count for nobody.
  this.conn.close();
}

/** Drops the request with its headers, and the copies that Socket.IO keeps: some kilobytes for each connection. */
function forgetHandshake(socket: Socket): void {
  (socket.conn as unknown as EngineConnection).request = undefined;
  Object.assign(socket, { handshake: NO_HANDSHAKE });
}

/**
 * Drops the request of an upgrade, with its headers. Engine.IO's stand-in for the response keeps it as long as the socket
 * lives: some more kilobytes. Only middleware reads it, of which this is the last.
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
