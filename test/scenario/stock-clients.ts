import { readFileSync } from 'node:fs';
import { Agent } from 'node:http';
import { fileURLToPath } from 'node:url';
import { compileFunction } from 'node:vm';
import { io } from 'socket.io-client';
import WebSocket from 'ws';
import type { SubscribeResult } from '../../src/protocol/messages.js';
import { EventStream } from '../support/event-stream.js';
import type { Link, LinkEvents, LinkOpener, LinkTarget, Message } from '../support/links.js';

const PROTOCOL = fileURLToPath(new URL('../../../docs/protocol.md', import.meta.url));
/** How long a program waits that was told "not now" and not for how long, in milliseconds. */
const AGAIN_MS = 1_000;

type Watch = (
  url: string,
  protocols: string[],
  room: string,
  onMessage: (message: Message) => void,
  position?: object,
) => void;

/** The lines that docs/protocol.md gives to whoever has nothing but `new WebSocket`, without the call at their end. */
function documentedWatch(): string {
  const blocks = readFileSync(PROTOCOL, 'utf8').matchAll(/^```js\n(function watch\(.*?)^watch\(.*?^```/gms);
  const [block, ...others] = [...blocks].map(([, code]) => code!);
  if (block === undefined || others.length > 0) {
    throw new Error(`docs/protocol.md has ${1 + others.length} functions "watch", or none`);
  }
  return block;
}

/** A page with the ten lines of the documentation. */
export const stockWebsocket: LinkOpener = ({ url, key, rooms: [room], localAddress }, events) => {
  let socket: WebSocket | undefined;
  let closed = false;
  /** What a browser has, on an address of its own. */
  class BrowserSocket extends WebSocket {
    constructor(address: string, protocols: string[]) {
      super(address, protocols, localAddress === undefined ? {} : { localAddress });
      socket = this;
      this.on('error', () => {
        // A close follows.
      });
    }

    override send(text: string): void {
      events.open('since' in JSON.parse(text).data);
      super.send(text);
    }
  }
  const later = (...timer: Parameters<typeof setTimeout>): void => {
    if (!closed) {
      setTimeout(...timer);
    }
  };
  const watch: Watch = compileFunction(`${documentedWatch()}\nreturn watch;`, ['WebSocket', 'setTimeout'])(
    BrowserSocket,
    later,
  );
  watch(
    `${url.replace(/^http/, 'ws')}/api/ws/tasks`,
    ['taskwire', `taskwire.key.${key}`],
    room!,
    ({ type, seq, data }) => {
      if (type === 'SUCCESS') {
        events.subscribed([data['data'] as SubscribeResult]);
      } else if (type === 'ERROR') {
        events.refused(String(data['code']));
      } else {
        events.message({ type, seq: seq!, data });
      }
    },
  );
  return {
    get connected() {
      return socket?.readyState === WebSocket.OPEN;
    },
    subscribe() {
      // The lines do it.
    },
    drop: () => socket?.terminate(),
    close() {
      closed = true;
      socket?.terminate();
    },
  };
};

/** A page with socket.io-client as it comes: it listens to what it is sent and to nothing else, and keeps no position. */
export const stockSocketio: LinkOpener = ({ url, key, rooms: [room], localAddress }, events) => {
  const socket = io(`${url}/api/ws/tasks`, {
    auth: { api_key: key },
    // A page of its own.
    forceNew: true,
    ...(localAddress === undefined ? {} : { agent: new Agent({ localAddress }) as never }),
  });
  const subscribe = (): void => {
    const { id } = socket;
    socket.emit('SUBSCRIBE', { room }, (answer: SubscribeResult | { error: { code: string } }) => {
      if ('error' in answer) {
        events.refused(answer.error.code);
        setTimeout(() => socket.id === id && subscribe(), AGAIN_MS);
      } else {
        events.subscribed([answer]);
      }
    });
  };
  socket.on('connect', () => {
    events.open(false);
    subscribe();
  });
  socket.onAny((_type, message: Message) => events.message(message));
  return {
    get connected() {
      return socket.connected;
    },
    subscribe() {
      // The handler of `connect` does it.
    },
    drop: () => socket.io.engine?.close(),
    close: () => socket.disconnect(),
  };
};

/** A page with an EventSource, which can set no header: its address has a token. */
export const stockStream =
  (token: string): LinkOpener =>
  (target, events) =>
    new StreamLink(target, token, events);

/** Server-Sent Events of one job, as a browser's EventSource keeps them: it gives the last id when it comes back. */
class StreamLink implements Link {
  private readonly stream: EventStream;

  constructor({ url, rooms: [room], localAddress }: LinkTarget, token: string, events: LinkEvents) {
    this.stream = new EventStream(`${url}/api/jobs/${room!.slice('job:'.length)}/events?token=${token}`, {
      reconnects: true,
      ...(localAddress === undefined ? {} : { localAddress }),
      onOpen: (resumes) => events.open(resumes),
      onMessage: (message: Message) => {
        if (message.type === 'SUCCESS') {
          events.subscribed([message.data['data'] as SubscribeResult]);
        } else if (message.type === 'ERROR') {
          events.refused(String(message.data['code']));
        } else {
          events.message(message);
        }
      },
    });
  }

  get connected(): boolean {
    return this.stream.open;
  }

  subscribe(): void {
    // The address says it.
  }

  drop(): void {
    this.stream.drop();
  }

  close(): void {
    this.stream.close();
  }
}
