import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';

const UPGRADE = [
  'Host: 127.0.0.1',
  'Connection: Upgrade',
  'Upgrade: websocket',
  'Sec-WebSocket-Version: 13',
  `Sec-WebSocket-Key: ${randomBytes(16).toString('base64')}`,
];

/** A client that writes bytes to a socket and keeps no rules. */
export class HostileClient {
  /** What it has read, as latin1. */
  received = '';
  private readonly socket: Socket;

  private constructor(port: number) {
    this.socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    this.socket.on('error', () => {});
    this.socket.setEncoding('latin1').on('data', (text: string) => {
      this.received += text;
    });
    this.socket.on('end', () => this.socket.end());
  }

  static async connect(port: number): Promise<HostileClient> {
    const client = new HostileClient(port);
    await once(client.socket, 'connect');
    return client;
  }

  /** Connects and asks for a WebSocket. @param headers lines beside those that it takes */
  static async upgrade(port: number, target: string, headers: readonly string[] = []): Promise<HostileClient> {
    const client = await HostileClient.connect(port);
    client.write([`GET ${target} HTTP/1.1`, ...UPGRADE, ...headers, '', ''].join('\r\n'));
    return client;
  }

  /** Whether the connection is gone. */
  get gone(): boolean {
    return this.socket.destroyed;
  }

  write(bytes: string | Uint8Array): void {
    this.socket.write(bytes);
  }

  /** From now on it reads nothing. */
  stopReading(): void {
    this.socket.pause();
  }

  /** Writes the same bytes as fast as they are taken, until that many are written or the connection is gone. */
  async flood(bytes: Uint8Array, most: number): Promise<void> {
    for (let written = 0; written < most && !this.gone; written += bytes.length) {
      if (!this.socket.write(bytes)) {
        const done = new AbortController();
        const heard = ['drain', 'close'].map((event) => once(this.socket, event, { signal: done.signal }));
        await Promise.race(heard).catch(() => {});
        done.abort();
        await Promise.allSettled(heard);
      }
    }
  }

  /** Resolves when nothing of what waits to be sent was taken for two seconds. */
  async stuck(): Promise<void> {
    for (let sent = -1; sent !== this.sent; ) {
      sent = this.sent;
      await sleep(2_000);
    }
  }

  private get sent(): number {
    return this.socket.bytesWritten - this.socket.writableLength;
  }

  /** Ends with a reset instead of a farewell. */
  reset(): void {
    this.socket.resetAndDestroy();
  }

  end(): void {
    this.socket.destroy();
  }
}

const OPCODES = { text: 1, binary: 2, close: 8, ping: 9, pong: 10 } as const;

/** A client's WebSocket frame, masked with zeros. */
export function clientFrame(payload: string | Uint8Array, kind: keyof typeof OPCODES = 'text'): Buffer {
  const bytes = Buffer.from(payload as string);
  const length =
    bytes.length < 126
      ? Buffer.of(0x80 | bytes.length)
      : bytes.length < 65_536
        ? Buffer.of(0x80 | 126, bytes.length >> 8, bytes.length & 255)
        : Buffer.concat([Buffer.of(0x80 | 127), bigEndian(bytes.length)]);
  return Buffer.concat([Buffer.of(0x80 | OPCODES[kind]), length, Buffer.alloc(4), bytes]);
}

function bigEndian(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}
