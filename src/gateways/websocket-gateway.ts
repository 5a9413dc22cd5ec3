import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { type RawData, WebSocket, WebSocketServer } from 'ws';
import { endWithError } from '../door/error-answer.js';
import { chooseProtocol } from '../door/subprotocols.js';
import { authenticated } from '../hub/credential-life.js';
import { errorEntry, TaskwireError, toTaskwireError } from '../protocol/errors.js';
import { errorText } from '../protocol/messages.js';
import { ENGINE_PATH, NAMESPACE } from '../protocol/paths.js';
import { FirstMessages } from './first-messages.js';
import type { GatewayOptions } from './gateway-options.js';
import type { Meter } from './meter.js';
import { MeteredSocket, SLOW_CLOSE_MS } from './metered-socket.js';
import { PingTimer } from './ping-timer.js';
import { PlainConnection } from './websocket-connection.js';
import { refuseWrongHandshakes } from './wrong-handshakes.js';

export interface WebsocketGatewayOptions extends GatewayOptions {
  readonly limits: GatewayOptions['limits'] & { readonly AUTH_TIMEOUT_MS: number };
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
export function createWebsocketGateway(options: WebsocketGatewayOptions): void {
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
  refuseWrongHandshakes(sockets as unknown as WebSocketServer);
  const pings = new PingTimer(limits.PING_INTERVAL_MS, limits.PING_TIMEOUT_MS);
  let lastId = 0;

  const enter = async (ws: TaskSocket, socket: Duplex, request: IncomingMessage): Promise<void> => {
    ws.on('error', onError);
    const leave = approach.wait(request, () => ws.terminate());
    ws.once('close', leave);
    // Nothing is read before its owner is known. What the client sends meanwhile stays in the socket.
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
      pings.add(connection);
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
      pings.delete(connection);
      connection.place?.release();
    }
  }

  server.on('upgrade', (request, socket, head) => {
    const path = (request.url ?? '').split('?', 1)[0]!.replace(/\/$/, '');
    if (path === NAMESPACE) {
      try {
        approach.check(request);
      } catch (error) {
        endWithError(socket, toTaskwireError(error));
        return;
      }
      sockets.handleUpgrade(request, socket, head, (ws) => void enter(ws, socket, request));
    } else if (!request.url?.startsWith(ENGINE_PATH)) {
      // No other gateway takes it.
      endWithError(socket, new TaskwireError('NOT_FOUND', { message: NO_SOCKET_HERE }));
    }
  });
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
