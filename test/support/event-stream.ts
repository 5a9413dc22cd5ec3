import { type ClientRequest, type IncomingMessage, request } from 'node:http';
import { eventually } from './eventually.js';

// biome-ignore lint/suspicious/noExplicitAny: tests look into messages of every form
type Any = any;

export interface EventStreamOptions {
  readonly headers?: Readonly<Record<string, string>>;
  /** Comes back by itself when the answer ends, as a browser's EventSource does. */
  readonly reconnects?: boolean;
  /** An address of this machine from which it connects. */
  readonly localAddress?: string;
  /** Told that an answer has begun. @param resumes whether it was asked for from the last id on */
  readonly onOpen?: (resumes: boolean) => void;
  /** Takes the messages, which are not kept then. */
  readonly onMessage?: (message: Any) => void;
}

/**
 * A client of Server-Sent Events as the HTML standard has it (9.2): it keeps the last id, takes `retry`, comes back with
 * `Last-Event-ID`, and gives up on any status but 200.
 */
export class EventStream {
  readonly messages: Any[] = [];
  /** The data of each message, as it came. */
  readonly texts: string[] = [];
  readonly comments: string[] = [];
  lastEventId = '';
  retryMs: number | undefined;
  status: number | undefined;
  headers: IncomingMessage['headers'] = {};
  /** Body of an answer other than 200. */
  refusal: Any;
  /** Answers that have begun. */
  connections = 0;
  /** An answer is under way. */
  open = false;
  /** The answer has ended, and it does not come back. */
  closed = false;
  private request: ClientRequest | undefined;
  private response: IncomingMessage | undefined;
  private timer: NodeJS.Timeout | undefined;
  private rest = '';
  private idBuffer = '';
  private data: string[] = [];

  constructor(
    private readonly url: string,
    private readonly options: EventStreamOptions = {},
  ) {
    this.connect();
  }

  pause(): void {
    this.response!.pause();
  }

  resume(): void {
    this.response!.resume();
  }

  /** Ends the connection, as a network does. */
  drop(): void {
    this.request?.destroy();
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.timer);
    this.request?.destroy();
  }

  find(wanted: (message: Any) => boolean): Promise<Any> {
    return eventually(() => {
      const message = this.messages.find(wanted);
      if (message === undefined) {
        throw new Error(`not among ${JSON.stringify(this.messages).slice(0, 2_000)} ${JSON.stringify(this.refusal)}`);
      }
      return message;
    });
  }

  /** What the server says when the room is live. */
  async live(): Promise<Any> {
    return (await this.find(({ type }) => type === 'SUCCESS')).data.data;
  }

  ended(): Promise<void> {
    return eventually(() => {
      if (!this.closed) {
        throw new Error('still open');
      }
    });
  }

  get seqs(): number[] {
    return this.messages
      .filter(({ type }) => type.startsWith('TASK_') && type !== 'TASK_SNAPSHOT')
      .map(({ seq }) => seq);
  }

  private connect(): void {
    const headers = {
      accept: 'text/event-stream',
      ...(this.lastEventId === '' ? {} : { 'last-event-id': this.lastEventId }),
      ...this.options.headers,
    };
    const { localAddress } = this.options;
    const options = { headers, agent: false, ...(localAddress === undefined ? {} : { localAddress }) };
    const resumes = this.lastEventId !== '';
    this.request = request(this.url, options, (response) => this.hear(response, resumes));
    this.request.on('error', () => this.lost());
    this.request.end();
  }

  private hear(response: IncomingMessage, resumes: boolean): void {
    this.response = response;
    this.status = response.statusCode;
    this.headers = response.headers;
    this.rest = '';
    this.data = [];
    response.setEncoding('utf8');
    response.on('error', () => {});
    if (response.statusCode !== 200) {
      let text = '';
      response.on('data', (chunk: string) => {
        text += chunk;
      });
      response.on('close', () => {
        this.refusal = JSON.parse(text);
        this.closed = true;
      });
      return;
    }
    this.connections += 1;
    this.open = true;
    this.options.onOpen?.(resumes);
    response.on('data', (chunk: string) => this.take(chunk));
    response.on('close', () => this.lost());
  }

  private lost(): void {
    this.open = false;
    if (this.options.reconnects !== true) {
      this.closed = true;
    }
    if (!this.closed) {
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.connect(), this.retryMs ?? 1_000);
    }
  }

  private take(chunk: string): void {
    const lines = (this.rest + chunk).split('\n');
    this.rest = lines.pop()!;
    for (const line of lines) {
      this.line(line);
    }
  }

  private line(line: string): void {
    if (line === '') {
      this.lastEventId = this.idBuffer;
      if (this.data.length > 0) {
        const text = this.data.join('\n');
        this.data = [];
        if (this.options.onMessage === undefined) {
          this.texts.push(text);
          this.messages.push(JSON.parse(text));
        } else {
          this.options.onMessage(JSON.parse(text));
        }
      }
      return;
    }
    const colon = line.indexOf(':');
    const name = colon === -1 ? line : line.slice(0, colon);
    const value = colon === -1 ? '' : line.slice(colon + 1).replace(/^ /, '');
    if (name === '') {
      this.comments.push(value);
    } else if (name === 'data') {
      this.data.push(value);
    } else if (name === 'id') {
      this.idBuffer = value;
    } else if (name === 'retry') {
      this.retryMs = Number(value);
    }
  }
}
