import { type Transport, websocket } from '@taskwire/client';
import { socketio } from '@taskwire/client/socketio';
import { sse } from '@taskwire/client/sse';
import { io } from 'socket.io-client';
import WebSocket from 'ws';

/** The client's transports, as a Node.js program has them. */
export const WIRES: Readonly<Record<string, Transport>> = {
  'a plain WebSocket': websocket({ WebSocket }),
  'Socket.IO': socketio(io, { transports: ['websocket'] }),
  'Server-Sent Events': sse(),
};
