import { connect, type Socket } from 'node:net';
import { clientFrame, OPCODE, PLACE, seqOf, textFrame, upgradeRequest, type Wire } from './frames.js';

/** Where connections go. */
export interface Target {
  readonly port: number;
  readonly wire: Wire;
  readonly key: string;
}

/** A room of a SUBSCRIBE. */
export interface RoomRequest {
  readonly room: string;
  readonly since?: number;
  readonly epoch?: string;
}

export interface ConnectionEvents {
  /** An event of the account's room. */
  event(index: number, seq: number): void;
  /** The SUBSCRIBE was answered with these positions. */
  ready(
    index: number,
    positions: ReadonlyArray<{ seq?: number; epoch?: string; recovered?: boolean; replayed?: number }>,
  ): void;
  /** The connection ended, or was told something that it does not understand. */
  failed(index: number, reason: string): void;
}

const PONG_ENGINE = textFrame('3');
const NONE = Buffer.alloc(0);

/** All sockets of the process read into one buffer: its bytes are handled before the next socket reads. */
const INPUT = Buffer.allocUnsafe(262_144);

/** One client connection over a raw socket, of either wire. */
export class Connection {
  private readonly socket: Socket;
  private rest: Buffer = NONE;
  private upgraded = false;
  private ended = false;

  constructor(
    private readonly index: number,
    private readonly target: Target,
    private readonly rooms: readonly RoomRequest[],
    private readonly events: ConnectionEvents,
  ) {
    this.socket = connect({
      host: '127.0.0.1',
      port: target.port,
      noDelay: true,
      onread: {
        buffer: INPUT,
        callback: (length) => {
          this.take(INPUT, length);
          return true;
        },
      },
    });
    this.socket.on('connect', () => this.socket.write(upgradeRequest(target.wire, target.port, target.key)));
    this.socket.on('error', (error) => this.fail(error.message));
    this.socket.on('close', () => this.fail('closed by the server'));
  }

  /** Ends the connection without a word. */
  destroy(): void {
    this.ended = true;
    this.socket.destroy();
  }

  private fail(reason: string): void {
    if (!this.ended) {
      this.destroy();
      this.events.failed(this.index, reason);
    }
  }

  private take(bytes: Buffer, length: number): void {
    let input = bytes;
    let end = length;
    if (this.rest.length > 0) {
      input = Buffer.concat([this.rest, bytes.subarray(0, length)]);
      end = input.length;
    }
    let at = 0;
    if (!this.upgraded) {
      const head = input.subarray(0, end).indexOf('\r\n\r\n');
      if (head < 0) {
        this.rest = Buffer.from(input.subarray(0, end));
        return;
      }
      const status = input.toString('latin1', 0, Math.min(head, 60)).split('\r\n')[0]!;
      if (!status.startsWith('HTTP/1.1 101')) {
        this.fail(status);
        return;
      }
      this.upgraded = true;
      at = head + 4;
      if (this.target.wire === 'plain') {
        this.subscribe();
      }
    }
    while (!this.ended && end - at >= 2) {
      let size = input[at + 1]! & 0x7f;
      let payload = at + 2;
      if (size === 126) {
        if (end - at < 4) {
          break;
        }
        size = (input[at + 2]! << 8) | input[at + 3]!;
        payload = at + 4;
      } else if (size === 127) {
        if (end - at < 10) {
          break;
        }
        size = input.readUInt32BE(at + 6);
        payload = at + 10;
      }
      if (end - payload < size) {
        break;
      }
      const first = input[at]!;
      if (first === 0x81) {
        const seq = seqOf(this.target.wire, input, payload, payload + size);
        if (seq >= 0) {
          this.events.event(this.index, seq);
        } else {
          this.say(input, payload, payload + size, seq);
        }
      } else {
        this.control(first, input.subarray(payload, payload + size));
      }
      at = payload + size;
    }
    this.rest = at < end ? Buffer.from(input.subarray(at, end)) : NONE;
  }

  private control(first: number, payload: Buffer): void {
    const opcode = first & 0x0f;
    if (opcode === OPCODE.ping) {
      this.socket.write(clientFrame(OPCODE.pong, payload));
    } else if (opcode === OPCODE.close) {
      const code = payload.length >= 2 ? payload.readUInt16BE(0) : 1005;
      this.fail(`closed with ${code} ${payload.toString('utf8', 2)}`);
    } else if (opcode !== OPCODE.pong) {
      this.fail(`a frame beginning with 0x${first.toString(16)}`);
    }
  }

  /** A text message that is no event. */
  private say(input: Buffer, start: number, end: number, seq: number): void {
    if (this.target.wire === 'socketio' && end - start === 1 && input[start] === 0x32) {
      this.socket.write(PONG_ENGINE);
      return;
    }
    const text = input.toString('utf8', start, end);
    if (seq === -2) {
      this.fail(`an event without seq in its place: ${text.slice(0, 120)}`);
    } else if (this.target.wire === 'plain') {
      this.sayPlain(text);
    } else {
      this.saySocketio(text);
    }
  }

  private sayPlain(text: string): void {
    if (text.startsWith('{"type":"SUCCESS"')) {
      const { data } = JSON.parse(text) as { data?: { data?: unknown } };
      this.answered(data?.data);
    } else if (text.startsWith('{"type":"ERROR"')) {
      this.fail(text.slice(0, 200));
    }
  }

  private saySocketio(text: string): void {
    if (text.startsWith('0{')) {
      this.socket.write(textFrame(`40${PLACE},${JSON.stringify({ api_key: this.target.key })}`));
    } else if (text.startsWith(`40${PLACE},`)) {
      this.subscribe();
    } else if (text.startsWith(`43${PLACE},0[`)) {
      const [answer] = JSON.parse(text.slice(text.indexOf('['))) as [{ error?: unknown } | undefined];
      if (answer?.error !== undefined) {
        this.fail(text.slice(0, 200));
      } else {
        this.answered(answer);
      }
    } else if (text.startsWith('41') || text.startsWith('44') || text === '1') {
      this.fail(text.slice(0, 200));
    }
  }

  private subscribe(): void {
    const requests = this.rooms.map((request) => ({ ...request, snapshot: false }));
    const data = requests.length === 1 ? requests[0] : { rooms: requests };
    this.socket.write(
      textFrame(
        this.target.wire === 'plain'
          ? JSON.stringify({ type: 'SUBSCRIBE', data, request_id: '0' })
          : `42${PLACE},0${JSON.stringify(['SUBSCRIBE', data])}`,
      ),
    );
  }

  private answered(answer: unknown): void {
    const { rooms } = (answer ?? {}) as { rooms?: unknown };
    const list = (Array.isArray(rooms) ? rooms : [answer ?? {}]) as Array<{ seq?: number; error?: unknown }>;
    const refused = list.find((item) => item?.error !== undefined);
    if (refused !== undefined) {
      this.fail(JSON.stringify(refused).slice(0, 200));
    } else {
      this.events.ready(this.index, list);
    }
  }
}
