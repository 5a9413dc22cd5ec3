import type { Worker } from 'node:cluster';
import type { Server as HttpServer } from 'node:http';
import { createServer, type Server, type Socket } from 'node:net';
import { setupMaster } from '@socket.io/sticky';
import { SilentConnections } from '../door/silent-connections.js';
import { HandOver, readHere, sessionOf, stopReading, withOpening } from './sticky-corrections.js';
import { createTurnAway } from './turn-away.js';

/** How long a connection may take to send its request line, in milliseconds. */
const PATIENCE_MS = 10_000;
/** Longest request line that is read here, in bytes. A longer one is passed to a worker, which refuses it. */
const MAX_LINE_BYTES = 16_384;

export interface StickyListener {
  /** Listens where its owner has it listen. */
  readonly server: Server;
  /** Takes a new worker in. It is given new connections while its hand-over takes all. */
  handOverTo(worker: Worker): HandOver;
}

/**
 * The public listener. It reads the request line of each connection and gives the connection to a worker by way of
 * `@socket.io/sticky`: requests of one session reach the same worker, others the one with the fewest connections.
 * It keeps nothing of a connection that was handed over.
 */
export function createStickyListener(): StickyListener {
  const handOvers = new Set<HandOver>();
  const available = (): boolean => [...handOvers].some(({ taking }) => taking === 'all');
  const turnAway = createTurnAway();
  // It listens nowhere: connections are given to it when their first line was read. Of an HTTP server, sticky uses only the
  // event `connection`.
  const sticky = createServer();
  setupMaster(sticky as HttpServer, { loadBalancingMethod: 'least-connection' });

  function route(socket: Socket, bytes: Buffer, session?: string): void {
    if (available()) {
      stopReading(socket);
      sticky.emit('connection', socket);
      socket.emit('data', withOpening(bytes, session));
    } else {
      readHere(socket);
      turnAway(socket, bytes);
    }
  }

  const silent = new SilentConnections(PATIENCE_MS);
  const server = createServer((socket) => {
    socket.on('error', () => socket.destroy());
    readLine(socket, silent, (bytes, line) => route(socket, bytes, sessionOf(line)));
  });

  return {
    server,
    handOverTo(worker) {
      // Requests of a session of this worker go to another one, which does not know the session: the client begins anew.
      const handOver = new HandOver(worker, (socket, bytes) => setImmediate(() => route(socket, bytes)));
      handOvers.add(handOver);
      worker.once('exit', () => handOvers.delete(handOver));
      return handOver;
    },
  };
}

/** Calls back once, with all bytes read so far and the request line, or what stands in its place. */
function readLine(socket: Socket, silent: SilentConnections, done: (bytes: Buffer, line: string) => void): void {
  const leave = silent.enter(socket);
  let bytes: Buffer | undefined;
  const onData = (chunk: Buffer): void => {
    bytes = bytes === undefined ? chunk : Buffer.concat([bytes, chunk]);
    const end = bytes.indexOf('\n');
    if (end !== -1 || bytes.length > MAX_LINE_BYTES || !mayBecomeLine(bytes)) {
      leave();
      socket.off('data', onData);
      done(bytes, bytes.toString('latin1', 0, end === -1 ? bytes.length : end));
    }
  };
  socket.on('data', onData);
}

/**
 * Whether bytes without a line feed may be the beginning of a request line. Those of TLS may not, say; a worker answers them at once, as it does
 * where it has the port itself.
 */
const mayBecomeLine = (bytes: Buffer): boolean => /^(?:[A-Z][ -~\u0080-\u00ff]*)?\r?$/.test(bytes.toString('latin1'));
