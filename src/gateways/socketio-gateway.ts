import { type IncomingMessage, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { Server, type Socket } from 'socket.io';
import { errorEntry, TaskwireError, toTaskwireError } from '../protocol/errors.js';
import { ENGINE_PATH, NAMESPACE } from '../protocol/paths.js';
import { closeEngine, cutOff, type EngineConnection, EngineSession } from './engine.js';
import type { GatewayOptions } from './gateway-options.js';
import { meteredServer } from './metered-socket.js';
import { type Ack, type SocketData, SocketioConnection, type TaskSocket } from './socketio-connection.js';
import { refuseUpgrade } from './upgrade.js';

export interface SocketioGatewayOptions extends GatewayOptions {
  /** As the broker gives it. */
  readonly adapter: unknown;
}

/** How long a client may be connected without being in the namespace, in milliseconds. */
const CONNECT_MS = 10_000;
/** What a handshake leaves behind, when nobody asks for it any more. */
const NO_HANDSHAKE = Object.freeze({ headers: {}, query: {}, auth: {} });

/** Bounds of the time that a client is held that may come back later, in milliseconds. */
const MIN_PAUSE_MS = 1_000;
const MAX_PAUSE_MS = 4_000;

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

/** Socket.IO with one namespace. Rooms are the hub's: one room store serves both transports. */
export function createSocketioGateway(options: SocketioGatewayOptions): Server {
  const { server, adapter, connections, approach, admit, meters, limits } = options;
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
    wsEngine: meteredServer(() => meters.stranger()),
    // Whoever may not come is told so by the door, which a page can only read where CORS lets it.
    cors: { origin: true, credentials: true },
    // A script of any page may poll by JSONP, past CORS and past the check of its origin.
    allowRequest: (request, decide) => {
      const jsonp = new URLSearchParams((request.url ?? '').split('?')[1]).has('j');
      decide(jsonp ? 'JSONP is switched off; poll with XMLHttpRequest or fetch' : null, !jsonp);
    },
  });

  io.engine.use(checkApproach);
  io.engine.use(releaseUpgrade);

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
  function onPacket(this: EngineConnection): void {
    const session = sessions.get(this);
    if (session !== undefined) {
      session.heardAt = performance.now();
    }
    const waiting = this.writeBuffer.length;
    if (waiting === 0) {
      refusals.delete(this);
    } else if (waiting > MAX_WAITING_PACKETS || (refusals.get(this) ?? 0) > limits.MAX_BUFFERED_BYTES) {
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
        if (errorEntry(refused.code).retry === 'never') {
          // Socket.IO sends the refusal at the end of this turn; without the namespace nothing else follows.
          setImmediate(() => closeEngine(engine));
          next(refusal(refused));
          return;
        }
        // A client that is refused does not come back by itself; one whose transport was closed does, after the pause that
        // it makes after every attempt. Socket.IO keeps the socket until it is told, and says nothing on a closed connection.
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
    // From here on the end of the connection gives everything back, whether it gets into the namespace or not.
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

/** A response, or Engine.IO's stand-in for that to an upgrade. */
type Response = ServerResponse | { readonly socket: Duplex };

const isOfSession = ({ url = '' }: IncomingMessage): boolean => url.includes('sid=');

function refuse(response: Response, error: TaskwireError): void {
  if (!(response instanceof ServerResponse)) {
    refuseUpgrade(response.socket, error);
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

/** A refusal with something to do in it: Socket.IO's own for an unknown namespace has neither a code nor a way out. */
const withReason = (packet: string): string =>
  packet.endsWith(NO_NAMESPACE) ? `${packet.slice(0, -NO_NAMESPACE.length)}${NO_NAMESPACE_HERE}` : packet;

/** How long a client that may come back later is held, in milliseconds: it comes back about a second after that. */
function pauseBefore({ code, options }: TaskwireError): number {
  // One that drains wants them gone, and another worker takes them.
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
