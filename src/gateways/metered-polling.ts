import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Meter } from './meter.js';

type PollingRequest = IncomingMessage & { res: ServerResponse | null };

/** What this file uses of Engine.IO's polling transport. */
export interface PollingTransport {
  readonly readyState: string;
  /** Whether a poll waits for something to be sent; `req` and `res` are that poll's then. */
  writable: boolean;
  readonly req: { cleanup(): void } | null;
  readonly res: ServerResponse | null;
  readonly parser: { decodePayload(payload: unknown): Array<{ readonly type: string }> };
  onRequest(request: PollingRequest): void;
  onData(payload: unknown): void;
  onPacket(packet: unknown): void;
  onError(reason: string): void;
  onClose(): void;
}

/**
 * Asks before each request of a polling session is read, and before each packet in it is handled. One request may bring
 * thousands of packets: it is answered when the last of them was taken, and until then no other is read.
 */
export class MeteredPolling {
  /** What waits, in order: at most one request of each method, and the packets of one body. */
  private waiting: Array<() => void> = [];
  /** Methods of the requests that wait or are not answered yet. */
  private readonly held = new Set<string>();
  private asked = false;
  private ended = false;
  private refused: ((poll: ServerResponse | null) => void) | undefined;

  constructor(
    private readonly transport: PollingTransport,
    private readonly meter: Meter,
  ) {
    const take = transport.onRequest.bind(transport);
    transport.onRequest = (request) => this.request(request, take);
    transport.onData = (payload) => this.packets(payload);
  }

  /** The session has ended, or has moved to a WebSocket: requests that wait are answered. */
  end(): void {
    this.ended = true;
    for (const work of this.waiting.splice(0)) {
      work();
    }
  }

  /** Answers the poll that waits, or the next one, with a refusal. @param then called when that is done */
  refuse(status: number, body: string, then: () => void): void {
    const { transport } = this;
    this.refused = (poll) => {
      poll?.writeHead(status, { 'Content-Type': 'application/json', 'Cache-Control': 'no-store' }).end(body);
      then();
    };
    if (transport.writable && transport.req !== null) {
      const { res } = transport;
      transport.writable = false;
      transport.req.cleanup();
      this.refused(res);
    }
  }

  private request(request: PollingRequest, take: (request: PollingRequest) => void): void {
    const { method = '', res: response } = request;
    const { transport, held } = this;
    if (held.has(method)) {
      // As Engine.IO does with a second one while the first is answered.
      transport.onError('overlap from client');
      response?.writeHead(400).end();
      return;
    }
    held.add(method);
    const gone = (): void => transport.onError('connection closed prematurely');
    request.once('close', gone);
    this.push(() => {
      request.off('close', gone);
      if (method === 'POST' && response !== null) {
        this.answerLast(response);
      } else {
        held.delete(method);
      }
      if (request.destroyed || transport.readyState === 'closed') {
        response?.writeHead(400).end();
      } else if (method === 'GET' && this.refused !== undefined) {
        this.refused(response);
      } else {
        take(request);
      }
    });
  }

  /** Holds the answer back until all packets of the request were taken. */
  private answerLast(response: ServerResponse): void {
    const end = response.end.bind(response) as (text?: string) => ServerResponse;
    response.end = ((text?: string): ServerResponse => {
      const answer = (): void => {
        this.held.delete('POST');
        end(text);
      };
      if (this.waiting.length === 0) {
        answer();
      } else {
        this.waiting.push(answer);
      }
      return response;
    }) as typeof response.end;
  }

  private packets(payload: unknown): void {
    const { transport } = this;
    for (const packet of transport.parser.decodePayload(payload)) {
      this.waiting.push(() => {
        if (this.ended) {
          return;
        }
        if (packet.type === 'close') {
          transport.onClose();
        } else {
          transport.onPacket(packet);
        }
      });
    }
    this.work();
  }

  private push(work: () => void): void {
    this.waiting.push(work);
    this.work();
  }

  private work(): void {
    while (!this.asked && this.waiting.length > 0) {
      if (this.meter.ask(this.granted)) {
        this.waiting.shift()!();
      } else {
        this.asked = true;
      }
    }
  }

  private readonly granted = (): void => {
    this.asked = false;
    this.waiting.shift()?.();
    this.work();
  };
}
