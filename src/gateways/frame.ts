import type { Outgoing } from '../hub/connection.js';
import { eventIdOf } from '../protocol/event-stream.js';
import { NAMESPACE } from '../protocol/paths.js';

/** First byte of a WebSocket frame that is a whole text message (RFC 6455, 5.2). */
const FINAL_TEXT = 0x81;
const MAX_SHORT = 125;
const MAX_MEDIUM = 65_535;

/**
 * A server's WebSocket frame of one text message: not masked, not compressed.
 * @param parts UTF-8 bytes of the text, in pieces
 */
export function textFrame(...parts: readonly Uint8Array[]): Buffer {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const header = length <= MAX_SHORT ? 2 : length <= MAX_MEDIUM ? 4 : 10;
  const frame = Buffer.allocUnsafe(header + length);
  frame[0] = FINAL_TEXT;
  if (header === 2) {
    frame[1] = length;
  } else if (header === 4) {
    frame[1] = 126;
    frame.writeUInt16BE(length, 2);
  } else {
    frame[1] = 127;
    frame.writeBigUInt64BE(BigInt(length), 2);
  }
  let offset = header;
  for (const part of parts) {
    frame.set(part, offset);
    offset += part.length;
  }
  return frame;
}

/** The frame of a message on the plain wire, built once. */
export function plainFrame(message: Outgoing): Buffer {
  message.plainFrame ??= textFrame(message.payload);
  return message.plainFrame;
}

/**
 * The frame of a message on the Socket.IO wire, built once: an Engine.IO message (`4`) with a Socket.IO event (`2`) of
 * the namespace, whose arguments are the type and the envelope.
 */
export function socketioFrame(message: Outgoing): Buffer {
  message.socketioFrame ??= textFrame(Buffer.from(`4${packetHead(message)}`), message.payload, TAIL);
  return message.socketioFrame;
}

/** The same as text for Engine.IO, which adds the `4` and the frame itself. */
export const socketioPacket = (message: Outgoing): string => `${packetHead(message)}${message.payload.toString()}]`;

const packetHead = ({ type }: Outgoing): string => `2${NAMESPACE},["${type}",`;
const TAIL = Buffer.from(']');

/** A message as Server-Sent Events have it, built once. Only events have an id: a client resumes behind one it has got. */
export function sseFrame(message: Outgoing): Buffer {
  const { seq, epoch, payload } = message;
  const id = seq === undefined || epoch === undefined ? '' : `id: ${eventIdOf({ seq, epoch })}\n`;
  message.sseFrame ??= Buffer.concat([Buffer.from(`${id}data: `), payload, SSE_END]);
  return message.sseFrame;
}

/** A message as a line of its own, built once. */
export function ndjsonFrame(message: Outgoing): Buffer {
  message.ndjsonFrame ??= Buffer.concat([message.payload, NEWLINE]);
  return message.ndjsonFrame;
}

const SSE_END = Buffer.from('\n\n');
const NEWLINE = Buffer.from('\n');
