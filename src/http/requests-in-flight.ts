import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { closePort } from '../base/port.js';
import { ENGINE_PATH } from '../protocol/paths.js';

const POLL_MS = 20;
/** Time that a kept connection gets to close, beside its idle time, in milliseconds. */
const CLOSE_MS = 500;

/**
 * The requests that have not been answered yet, and the connections that may bring one: those that clients keep for their next one, and those whose
 * first one is still on its way. Long polls of Engine.IO do not count: they end with their connection.
 */
export class RequestsInFlight {
  private readonly responses = new Set<ServerResponse>();
  private readonly kept = new Set<Socket>();
  private ending = false;

  /**
   * @param servers all that take requests
   * @param listening those of them that listen; the others are given connections for one request each
   */
  constructor(
    private readonly servers: readonly Server[],
    private readonly listening: readonly Server[],
  ) {
    for (const server of servers) {
      server.prependListener('request', (request: IncomingMessage, response: ServerResponse) => {
        if (!(request.url ?? '').startsWith(ENGINE_PATH)) {
          this.note(response);
        }
      });
      server.on('connection', (socket: Socket) => {
        // One whose offer of another protocol was ignored comes again.
        if (!this.kept.has(socket)) {
          this.kept.add(socket);
          socket.once('close', () => this.kept.delete(socket));
        }
      });
    }
  }

  /** Lets nobody connect any more; from now on every answer ends its connection, those that are under way too. */
  async end(): Promise<void> {
    this.ending = true;
    for (const response of this.responses) {
      dismiss(response);
    }
    await Promise.all(this.listening.map((server) => closePort(server)));
  }

  /** Ends all connections and listeners at once. */
  stop(): void {
    for (const server of this.servers) {
      server.closeAllConnections();
      if (server.listening) {
        server.close();
      }
    }
  }

  /**
   * Resolves when all requests are answered and all connections have gone, which they do when they have been idle for the
   * time that their clients have been told; or when `patienceMs` have passed.
   */
  async drained(patienceMs: number): Promise<void> {
    const start = performance.now();
    const idleMs = Math.max(0, ...this.servers.map(({ keepAliveTimeout }) => keepAliveTimeout)) + CLOSE_MS;
    for (let waited = 0; waited < patienceMs; waited = performance.now() - start) {
      if (this.responses.size === 0 && (this.kept.size === 0 || waited > idleMs)) {
        return;
      }
      await sleep(POLL_MS);
    }
  }

  private note(response: ServerResponse): void {
    this.responses.add(response);
    response.once('close', () => this.responses.delete(response));
    if (this.ending) {
      dismiss(response);
    }
  }
}

function dismiss(response: ServerResponse): void {
  if (!response.headersSent) {
    response.setHeader('Connection', 'close');
  }
}
