/** The namespace of Socket.IO and the path of plain WebSockets. */
export const PLACE = '/api/ws/tasks';

export type Wire = 'socketio' | 'plain';
export const WIRES: readonly Wire[] = ['socketio', 'plain'];

/** @param name a wire, or `both` */
export const wiresOf = (name: string): readonly Wire[] =>
  name === 'both' ? WIRES : WIRES.filter((wire) => wire === name);

export const OPCODE = { text: 1, binary: 2, close: 8, ping: 9, pong: 10 } as const;

/** A client's frame. Its mask is zero, so that the payload needs no work. */
export function clientFrame(opcode: number, payload: Buffer): Buffer {
  const { length } = payload;
  const short = length < 126;
  const header = Buffer.alloc(short ? 6 : 8);
  header[0] = 0x80 | opcode;
  header[1] = 0x80 | (short ? length : 126);
  if (!short) {
    header.writeUInt16BE(length, 2);
  }
  return Buffer.concat([header, payload]);
}

export const textFrame = (text: string): Buffer => clientFrame(OPCODE.text, Buffer.from(text));

/** A server's text frame. */
export function serverFrame(payload: Buffer): Buffer {
  const { length } = payload;
  const header = Buffer.alloc(length < 126 ? 2 : length < 65_536 ? 4 : 10);
  header[0] = 0x81;
  header[1] = header.length === 2 ? length : header.length === 4 ? 126 : 127;
  if (header.length === 4) {
    header.writeUInt16BE(length, 2);
  } else if (header.length === 10) {
    header.writeBigUInt64BE(BigInt(length), 2);
  }
  return Buffer.concat([header, payload]);
}

/** The request that opens a connection. */
export function upgradeRequest(wire: Wire, port: number, key: string): string {
  const path =
    wire === 'plain' ? `${PLACE}?api_key=${encodeURIComponent(key)}` : '/socket.io/?EIO=4&transport=websocket';
  return [
    `GET ${path} HTTP/1.1`,
    `Host: 127.0.0.1:${port}`,
    'Connection: Upgrade',
    'Upgrade: websocket',
    'Sec-WebSocket-Version: 13',
    'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==',
    '\r\n',
  ].join('\r\n');
}

const QUOTE = 0x22;
const ZERO = 0x30;
/** Every message begins so on either wire; Engine.IO's own packets, whose session ids may look like anything, do not. */
const BEGINNING = { plain: '{'.charCodeAt(0), socketio: '4'.charCodeAt(0) } as const;
const [F, N, S, T, U, C] = [...Buffer.from('FNSTUC')] as [number, number, number, number, number, number];
/** Where the type begins: after `{"type":"`, and after `42/api/ws/tasks,["`. */
const PLAIN_TYPE = '{"type":"'.length;
const SOCKETIO_TYPE = `42${PLACE},["`.length;
/** Between the end of the type's first mention and its second one in a Socket.IO packet: `",{"type":"`. */
const SECOND_TYPE = '",{"type":"'.length;
/** Length of the shortest type, `TASK_CREATED`. */
const SHORTEST = 12;
/** Between the end of the type and the digits: `","seq":`. */
const TO_SEQ = '","seq":'.length;

/**
 * Finds `seq` of an event by its place in the payload, which all variants write alike.
 * @returns -1 when the payload is no event, -2 when it is one without `seq` in its place
 */
export function seqOf(wire: Wire, bytes: Uint8Array, start: number, end: number): number {
  const type = start + (wire === 'plain' ? PLAIN_TYPE : SOCKETIO_TYPE);
  if (bytes[start] !== BEGINNING[wire] || end - type < SHORTEST + TO_SEQ || !isEventType(bytes, type)) {
    return -1;
  }
  let quote = type + SHORTEST;
  while (bytes[quote] !== QUOTE && quote < end) {
    quote += 1;
  }
  let at = wire === 'plain' ? quote + TO_SEQ : quote + SECOND_TYPE + (quote - type) + TO_SEQ;
  let seq = bytes[at]! - ZERO;
  if (!(seq >= 0 && seq <= 9)) {
    return -2;
  }
  for (at += 1; at < end; at += 1) {
    const digit = bytes[at]! - ZERO;
    if (!(digit >= 0 && digit <= 9)) {
      break;
    }
    seq = seq * 10 + digit;
  }
  return seq;
}

/** TASK_CREATED, TASK_UPDATED, TASK_FEE_UPDATED and TASK_STATUS_CHANGED, but not TASK_SNAPSHOT. */
function isEventType(bytes: Uint8Array, at: number): boolean {
  if (bytes[at] !== T || bytes[at + 4] !== 0x5f) {
    return false;
  }
  const letter = bytes[at + 5];
  return letter === U || letter === C || letter === F || (letter === S && bytes[at + 6] !== N);
}
