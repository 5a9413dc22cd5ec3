import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { Server as NetServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { ENGINE_PATH } from '../protocol/paths.js';

const POLL_MS = 20;
/** What a kept connection may need beside its time of idleness to be closed, in milliseconds. */
const CLOSE_MS = 500;

/**
 * The requests that have not been answered yet, and the connections that clients keep for their next ones. Long polls of
 * Engine.IO do not count: they end with their connection.
 */
export class RequestsInFlight {
  private readonly responses = new Set<ServerResponse>();
  private kept = 0;
  private ending = false;

  /**
   * @param http serves connections that it is given, none of which is kept
   * @param rest listens, and keeps connections; undefined when there is none
   */
  constructor(
    http: Server,
    private readonly rest: Server | undefined,
  ) {
    for (const server of rest === undefined ? [http] : [http, rest]) {
      server.prependListener('request', (request: IncomingMessage, response: ServerResponse) => {
        if (!(request.url ?? '').startsWith(ENGINE_PATH)) {
          this.note(response);
        }
      });
    }
    rest?.on('connection', (socket) => {
      this.kept += 1;
      socket.once('close', () => {
        this.kept -= 1;
      });
    });
  }

  /** Lets nobody connect any more; from now on every answer ends its connection, those that are under way too. */
  end(): void {
    this.ending = true;
    for (const response of this.responses) {
      dismiss(response);
    }
    if (this.rest !== undefined) {
      // An HTTP server that closes ends idle connections at once, with the requests that are on their way to it.
      NetServer.prototype.close.call(this.rest);
    }
  }

  /**
   * Resolves when all requests are answered and all kept connections have gone, which they do when they have been idle for the
   * time that their clients have been told; or when `patienceMs` have passed.
   */
  async drained(patienceMs: number): Promise<void> {
    const start = performance.now();
    const idleMs = (this.rest?.keepAliveTimeout ?? 0) + CLOSE_MS;
    for (let waited = 0; waited < patienceMs; waited = performance.now() - start) {
      if (this.responses.size === 0 && (this.kept === 0 || waited > idleMs)) {
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
