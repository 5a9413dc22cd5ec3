import { type ClientRequest, request } from 'node:http';
import type { SubscribeResult } from '../../src/protocol/messages.js';
import { type Link, type LinkEvents, type LinkTarget, type Message, RECONNECT_MS } from './links.js';

interface Asked {
  readonly room: string;
  readonly since?: number;
  readonly epoch?: string;
}

const PLACES: Readonly<Record<string, string>> = { job: 'jobs', task: 'tasks', user: 'users' };

/** One room over Server-Sent Events: an answer that does not end, and another one when it has. */
export class SseLink implements Link {
  connected = false;
  private request: ClientRequest | undefined;
  private closed = false;
  private timer: NodeJS.Timeout | undefined;

  constructor(
    private readonly target: LinkTarget,
    private readonly events: LinkEvents,
  ) {
    this.timer = setTimeout(() => events.open());
  }

  subscribe(rooms: unknown[]): void {
    const [{ room, since, epoch }] = rooms as [Asked];
    const [kind = '', id = ''] = room.split(':');
    const from = since === undefined ? '' : `?since=${since}&epoch=${epoch}`;
    const { url, key, localAddress } = this.target;
    const call = request(`${url}/api/${PLACES[kind]}/${id}/events${from}`, {
      agent: false,
      headers: { accept: 'text/event-stream', 'x-api-key': key },
      ...(localAddress === undefined ? {} : { localAddress }),
    });
    this.request = call;
    call.on('error', () => this.comeBack(call));
    call.on('response', (response) => {
      response.on('error', () => {});
      response.on('close', () => this.comeBack(call));
      if (response.statusCode !== 200) {
        this.events.refused(String(response.statusCode));
        response.resume();
        return;
      }
      this.connected = true;
      let rest = '';
      response.setEncoding('utf8').on('data', (text: string) => {
        const parts = (rest + text).split('\n\n');
        rest = parts.pop()!;
        for (const part of parts) {
          const data = part.split('\n').flatMap((line) => (line.startsWith('data: ') ? [line.slice(6)] : []));
          if (data.length > 0 && this.request === call && !this.closed) {
            this.hear(JSON.parse(data.join('\n')) as Message);
          }
        }
      });
    });
    call.end();
  }

  drop(): void {
    this.request?.destroy();
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.timer);
    this.request?.destroy();
  }

  private hear(message: Message): void {
    if (message.type === 'SUCCESS') {
      this.events.subscribed([message.data['data'] as SubscribeResult]);
    } else if (message.type === 'ERROR') {
      this.events.refused(String(message.data['code']));
    } else {
      this.events.message(message);
    }
  }

  private comeBack(call: ClientRequest): void {
    if (this.request === call && !this.closed) {
      this.request = undefined;
      this.connected = false;
      this.timer = setTimeout(() => this.events.open(), this.target.reconnectMs ?? RECONNECT_MS);
    }
  }
}
