import { connect, type Socket } from 'node:net';
import { ENGINE_PATH, NAMESPACE } from '../../src/protocol/paths.js';
import type { Wire } from './subscriber.js';

const OPCODE = { text: 1, close: 8, ping: 9, pong: 10 } as const;
const NONE = Buffer.alloc(0);

/** A server's frame as it came. */
export interface RawFrame {
  readonly opcode: number;
  readonly bytes: Buffer;
  readonly payload: Buffer;
}

export interface RawTarget {
  readonly port: number;
  readonly key: string;
  readonly wire: Wire;
}

/** A client's frame. Its mask is zero, so that the payload stays as it is. */
function clientFrame(opcode: number, payload: Buffer): Buffer {
  const short = payload.length < 126;
  const header = Buffer.alloc(short ? 6 : 8);
  header[0] = 0x80 | opcode;
  header[1] = 0x80 | (short ? payload.length : 126);
  if (!short) {
    header.writeUInt16BE(payload.length, 2);
  }
  return Buffer.concat([header, payload]);
}

/** A connection of either wire over a bare socket: little memory, and every frame as it came. */
export class RawClient {
  /** How the connection ended, if it did. */
  ended: string | undefined;
  private readonly socket: Socket;
  private rest: Buffer = NONE;
  private upgraded = false;

  /**
   * Connects, and sends a SUBSCRIBE as soon as that can be sent.
   * @param data of the SUBSCRIBE
   * @param onFrame told every text frame; those of the handshake too
   */
  constructor(
    private readonly target: RawTarget,
    private readonly data: unknown,
    private readonly onFrame: (frame: RawFrame) => void,
  ) {
    const { port, key, wire } = target;
    const path = wire === 'websocket' ? `${NAMESPACE}?api_key=${key}` : `${ENGINE_PATH}?EIO=4&transport=websocket`;
    this.socket = connect(port, '127.0.0.1', () => {
      this.socket.write(
        `GET ${path} HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
          'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n',
      );
    });
    this.socket.on('data', (chunk) => this.take(chunk));
    this.socket.on('error', (error) => this.end(error.message));
    this.socket.on('close', () => this.end('closed'));
  }

  destroy(): void {
    this.end('destroyed');
    this.socket.destroy();
  }

  private end(how: string): void {
    this.ended ??= how;
  }

  private take(chunk: Buffer): void {
    let input = this.rest.length === 0 ? chunk : Buffer.concat([this.rest, chunk]);
    if (!this.upgraded) {
      const head = input.indexOf('\r\n\r\n');
      if (head < 0) {
        this.rest = input;
        return;
      }
      const status = input.toString('latin1', 0, input.indexOf('\r\n'));
      if (!status.startsWith('HTTP/1.1 101')) {
        this.end(status);
        this.socket.destroy();
        return;
      }
      this.upgraded = true;
      input = input.subarray(head + 4);
      if (this.target.wire === 'websocket') {
        this.say(JSON.stringify({ type: 'SUBSCRIBE', data: this.data, request_id: '0' }));
      }
    }
    for (let frame = frameOf(input); frame !== undefined; frame = frameOf(input)) {
      input = input.subarray(frame.bytes.length);
      this.hear(frame);
    }
    // What is kept must not hold a whole read.
    this.rest = input.length === 0 ? NONE : Buffer.from(input);
  }

  private hear(frame: RawFrame): void {
    const { opcode, payload } = frame;
    if (opcode === OPCODE.ping) {
      this.socket.write(clientFrame(OPCODE.pong, payload));
    } else if (opcode === OPCODE.close) {
      this.end(`${payload.readUInt16BE(0)} ${payload.toString('utf8', 2)}`);
    } else {
      if (this.target.wire === 'socket.io') {
        this.shakeHands(payload);
      }
      this.onFrame(frame);
    }
  }

  private shakeHands(payload: Buffer): void {
    if (payload.length === 1 && payload[0] === 0x32) {
      this.say('3');
    } else if (payload[0] === 0x30) {
      this.say(`40${NAMESPACE},${JSON.stringify({ api_key: this.target.key })}`);
    } else if (payload.toString('latin1', 0, 2) === '40') {
      this.say(`42${NAMESPACE},0${JSON.stringify(['SUBSCRIBE', this.data])}`);
    }
  }

  private say(text: string): void {
    this.socket.write(clientFrame(OPCODE.text, Buffer.from(text)));
  }
}

/** The frame that `input` begins with, if it is there whole. */
function frameOf(input: Buffer): RawFrame | undefined {
  if (input.length < 2) {
    return undefined;
  }
  let size = input[1]!;
  let start = 2;
  if (size === 126) {
    start = 4;
    size = input.length < start ? Number.POSITIVE_INFINITY : input.readUInt16BE(2);
  } else if (size === 127) {
    start = 10;
    size = input.length < start ? Number.POSITIVE_INFINITY : Number(input.readBigUInt64BE(2));
  }
  if (input.length < start + size) {
    return undefined;
  }
  const bytes = input.subarray(0, start + size);
  return { opcode: bytes[0]! & 0x0f, bytes, payload: bytes.subarray(start) };
}
