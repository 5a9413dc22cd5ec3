import type { ErrorBody, SubscribeOutcome, SubscribeRequest, SubscribeResult } from './protocol.js';
import { refusal } from './refusal.js';
import type { Incoming, LinkEnd, LinkEvents, Transport } from './transport.js';

/** A stream that has brought nothing for so long is dead, in milliseconds: the server says something every 25 seconds. */
const SILENCE_MS = 60_000;

/** `fetch` of a browser or of Node.js. */
export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

/**
 * Server-Sent Events, for where only HTTP comes through: one answer that does not end for each room. Over HTTP/1.1 a browser
 * opens six of them to a host; use it with few rooms, or behind a proxy that speaks HTTP/2.
 * @param options `fetch`: to use instead of the global one
 */
export const sse =
  (options: { readonly fetch?: Fetch } = {}): Transport =>
  ({ url, credential }, events) => {
    const streams = new Map<string, RoomStream>();
    let shown = credential;
    let over = false;
    const close = (): void => {
      over = true;
      for (const stream of streams.values()) {
        stream.close();
      }
    };
    const end = (reason: LinkEnd): void => {
      if (!over) {
        close();
        events.ended(reason);
      }
    };

    const subscribe = (request: SubscribeRequest): Promise<SubscribeOutcome> => {
      streams.get(request.room)?.close();
      return new Promise((resolve) => {
        const stream = new RoomStream(request.room, resolve, events.message, end);
        streams.set(request.room, stream);
        const headers: Record<string, string> = { accept: 'text/event-stream' };
        if (shown.token !== undefined) {
          headers['authorization'] = `Bearer ${shown.token}`;
        }
        if (shown.apiKey !== undefined) {
          headers['x-api-key'] = shown.apiKey;
        }
        void stream.read((signal) =>
          (options.fetch ?? fetch)(addressOf(url, request), { headers, signal, cache: 'no-store' }),
        );
      });
    };

    // There is nothing to open: each room has an answer of its own.
    void Promise.resolve().then(() => over || events.opened());
    return {
      send: (type, data, answered) => {
        if (type === 'SUBSCRIBE') {
          const { rooms } = data as { rooms: readonly SubscribeRequest[] };
          void Promise.all(rooms.map(subscribe)).then((outcomes) => over || answered({ data: { rooms: outcomes } }));
        } else if (type === 'UNSUBSCRIBE') {
          const { room } = data as { room: string };
          streams.get(room)?.close();
          streams.delete(room);
        } else if (type === 'AUTH') {
          shown = data as typeof shown;
          answered({ data });
        }
        // A PING is answered by the next sign of life of a stream.
      },
      close,
    };
  };

function addressOf(url: string, { room, since, epoch }: SubscribeRequest): string {
  const id = room.slice(room.indexOf(':') + 1);
  const kind = room.slice(0, -id.length - 1);
  const query = since === undefined ? '' : `?since=${since}`;
  const ofEpoch = epoch === undefined ? '' : `&epoch=${encodeURIComponent(epoch)}`;
  return `${url.replace(/\/$/, '')}/api/${kind}s/${encodeURIComponent(id)}/events${query}${ofEpoch}`;
}

/** The answer of one room. */
class RoomStream {
  #timer: ReturnType<typeof setTimeout> | undefined;
  readonly #stop = new AbortController();
  readonly #room: string;
  readonly #joined: (outcome: SubscribeOutcome) => void;
  readonly #message: LinkEvents['message'];
  readonly #end: (reason: LinkEnd) => void;

  constructor(
    room: string,
    joined: (outcome: SubscribeOutcome) => void,
    message: LinkEvents['message'],
    end: (reason: LinkEnd) => void,
  ) {
    this.#room = room;
    this.#joined = joined;
    this.#message = message;
    this.#end = end;
  }

  close(): void {
    clearTimeout(this.#timer);
    this.#stop.abort();
  }

  async read(open: (signal: AbortSignal) => Promise<Response>): Promise<void> {
    const { signal } = this.#stop;
    try {
      const answer = await open(signal);
      if (answer.status !== 200) {
        this.#refused(answer.status, ((await answer.json()) as { error: ErrorBody }).error);
        return;
      }
      const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
      let rest = '';
      while (!signal.aborted) {
        clearTimeout(this.#timer);
        this.#timer = setTimeout(() => this.#lost('NO_ANSWER'), SILENCE_MS);
        const { done, value } = await reader.read();
        if (done) {
          break;
        }
        const blocks = (rest + value).split('\n\n');
        rest = blocks.pop()!;
        for (const block of blocks) {
          this.#block(block);
        }
      }
      this.#lost('CONNECTION_LOST');
    } catch (error) {
      this.#lost('CONNECTION_LOST', String(error));
    } finally {
      clearTimeout(this.#timer);
    }
  }

  #lost(code: string, message = code): void {
    if (!this.#stop.signal.aborted) {
      this.#end({ later: true, code, message });
    }
  }

  #refused(status: number, error: ErrorBody): void {
    // Who is not known at all is not known in any room.
    if (status === 401) {
      this.#end(refusal(error));
    } else {
      this.#joined({ room: this.#room, error });
    }
  }

  #block(block: string): void {
    if (this.#stop.signal.aborted) {
      return;
    }
    const data = /^data: ?(.*)$/m.exec(block)?.[1];
    const id = /^id: ?(.+)-(\d+)$/m.exec(block);
    if (data !== undefined) {
      this.#receive(JSON.parse(data) as Incoming);
    } else if (id !== null) {
      const position = { room: this.#room, epoch: id[1]!, seq: Number(id[2]) };
      this.#message({ type: 'POSITION', data: { positions: [position] } });
    }
  }

  #receive(message: Incoming): void {
    if (message.type === 'ERROR') {
      this.#end(refusal(message.data as ErrorBody));
    } else if (message.type === 'SUCCESS') {
      this.#joined((message.data as { data: SubscribeResult }).data);
    } else {
      this.#message({ ...message, room: this.#room });
    }
  }
}
