import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

const POLL_MS = 20;

/** Counts the requests that have not been answered yet. Long polls of Engine.IO do not count: they end with their connection. */
export class RequestsInFlight {
  private count = 0;

  constructor(servers: readonly Server[]) {
    for (const server of servers) {
      server.prependListener('request', (request: IncomingMessage, response: ServerResponse) => {
        if (!(request.url ?? '').startsWith('/socket.io/')) {
          this.count += 1;
          response.once('close', () => {
            this.count -= 1;
          });
        }
      });
    }
  }

  /** Resolves when all are answered, or when `patienceMs` have passed. */
  async drained(patienceMs: number): Promise<void> {
    const end = performance.now() + patienceMs;
    while (this.count > 0 && performance.now() < end) {
      await sleep(POLL_MS);
    }
  }
}
